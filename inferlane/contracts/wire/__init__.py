"""Payloads: the Open Inference Protocol V2 with its binary tensor extension, and V1 `instances`."""

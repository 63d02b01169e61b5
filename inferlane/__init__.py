"""Inferlane: what the processes of a queue-based model server agree on, and what they run on."""

__version__ = "0.1.0"

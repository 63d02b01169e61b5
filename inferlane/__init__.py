"""Inferlane: promises between the processes of a queue-based model server, its shell, CLI and local stack."""

__version__ = "0.1.0"

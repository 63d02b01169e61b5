"""What a span is to the other end of its hop."""

from enum import Enum


class Kind(Enum):
    """The names are OpenTelemetry's."""

    SERVER = "SERVER"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"
    CLIENT = "CLIENT"
    INTERNAL = "INTERNAL"

"""A record on its way out, and how large it is at most. Pure."""

import msgspec

from inferlane.contracts.record import Headers
from inferlane.errors import PayloadTooLargeError


class OutRecord(msgspec.Struct, frozen=True):
    """A record on its way out; `timestamp_ms` None means now.

    With `together` it goes to any partition, in the company of so many at most; without, all of a key go to the same,
    in their order.
    """

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    timestamp_ms: int | None = None
    together: int = 0


# The frame of a record in its batch, and of each header, at their largest.
_RECORD_FRAME_BYTES = 128
_HEADER_FRAME_BYTES = 16


def headers_bytes(headers: Headers) -> int:
    """What these headers take in a record, frames included, at most."""
    return sum(_name_bytes(name) + len(value or b"") + _HEADER_FRAME_BYTES for name, value in headers)


def _name_bytes(name: str) -> int:
    # Asked of each header of each record: encoding the name would cost more than all the rest.
    return len(name) if name.isascii() else len(name.encode(errors="replace"))


def check_size(record: OutRecord, limit_bytes: int) -> int:
    """Refuse what the broker would, else return the record's size at most, in bytes.

    After the broker's own refusal an idempotent producer has lost its sequence.

    Raises:
        PayloadTooLargeError: the record with its key and headers is over the limit.
    """
    size_bytes = len(record.value) + len(record.key) + _RECORD_FRAME_BYTES + headers_bytes(record.headers)
    if size_bytes > limit_bytes:
        raise PayloadTooLargeError(
            f"a record for {record.topic} has {size_bytes} bytes with its headers, the limit is {limit_bytes}; "
            "send fewer rows a request, or raise INFERLANE_MAX_BODY_BYTES and the topics' max.message.bytes",
            limit_bytes=limit_bytes,
        )
    return size_bytes

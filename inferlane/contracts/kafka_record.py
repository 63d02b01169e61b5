"""Kafka records: as they are read and written, and their size; times and traces in their headers. Pure."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import msgspec

from inferlane.errors import DecodeError, PayloadTooLargeError, quoted

Headers = Sequence[tuple[str, bytes]]


class KafkaRecord(Protocol):
    """A consumed record, independent of the client that read it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class OutRecord(msgspec.Struct, frozen=True):
    """A record on its way out; `timestamp_ms` None means now.

    With `max_run` it goes to any partition, with at most so many records in a row to the same one; without, all
    records of a key go to one partition, in their order.
    """

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    timestamp_ms: int | None = None
    max_run: int = 0


# The frame of a record in its batch, and of each header, at their largest.
_RECORD_FRAME_BYTES = 128
_HEADER_FRAME_BYTES = 16


def headers_bytes(headers: Headers) -> int:
    """Return what these headers take in a record, frames included, at most."""
    # Called for each record: encoding all names at once costs half as much as one by one.
    names = "".join([name for name, _ in headers])
    names_bytes = len(names) if names.isascii() else len(names.encode(errors="replace"))
    return names_bytes + sum([len(value or b"") for _, value in headers]) + _HEADER_FRAME_BYTES * len(headers)


def check_size(record: OutRecord, limit_bytes: int) -> int:
    """Return the record's largest possible size in bytes; refuse a record that the broker would refuse.

    A refusal by the broker would break the sequence of an idempotent producer.

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


class _Mark(str):
    """The name of a header that no producer can write: its type marks it, not its characters."""

    __slots__ = ()


_REASON = _Mark("inferlane-dead-letter-unreadable")
_LAST_OFFSET = "inferlane-dead-letter-last-offset"


def unreadable_headers(reason: str, *, last_offset: int) -> tuple[tuple[str, bytes], ...]:
    """The headers of the record that stands for a batch: why it cannot be read, and the offset of its last record."""
    return ((_REASON, reason.encode(errors="replace")), (_LAST_OFFSET, str(last_offset).encode()))


def is_unreadable(headers: Headers) -> bool:
    """Return whether these are the headers of a record that stands for a batch which could not be read."""
    return bool(headers) and headers[0][0].__class__ is _Mark


def last_offset(headers: Headers) -> str:
    """Return the offset of the last record of the batch that could not be read."""
    return headers[1][1].decode()


def refuse_unreadable(topic: str, partition: int, offset: int, headers: Headers) -> None:
    """Return if the record is one that a producer wrote.

    Raises:
        DecodeError: it stands for a batch that cannot be read; the message has the batch's position and the reason.
    """
    if is_unreadable(headers):
        reason = headers[0][1].decode(errors="replace")
        raise DecodeError(
            f"the batch with the offsets {offset} to {last_offset(headers)} of {topic}, partition {partition}, cannot "
            f"be read: {reason}; mend what produced it, docs/topics.md says what is read"
        )


_MICROS = 1_000_000


def format_time(seconds: float) -> bytes:
    """Format seconds since the epoch as RFC 3339 with microseconds, as CloudEvents requires of a Timestamp."""
    whole = math.floor(seconds)
    micros = round((seconds - whole) * _MICROS)
    if micros == _MICROS:
        whole, micros = whole + 1, 0
    return b"%b.%06d+00:00" % (_written_second(whole), micros)


# Requests of one moment share the second of their acceptance and of their deadline: a cached second saves four fifths.
@lru_cache(maxsize=256)
def _written_second(whole: int) -> bytes:
    return datetime.fromtimestamp(whole, UTC).replace(tzinfo=None).isoformat().encode()


def parse_time(raw: bytes) -> float:
    """Return the seconds since the epoch of an RFC 3339 timestamp.

    Raises:
        ValueError: the text is not a timestamp, or has no offset from UTC.
    """
    # RFC 3339, section 5.6, has `t` and `z` for `T` and `Z`.
    moment = datetime.fromisoformat(raw.decode().upper())
    if moment.tzinfo is None:
        raise ValueError(f"time {quoted(raw)} has no offset from UTC, write it as 2026-01-31T12:00:00Z")
    return moment.timestamp()


_TRACE_IDS = rb"-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# A later version may add fields, which are kept as they came, up to a limit.
_TRACE_PARENT = re.compile(rb"00" + _TRACE_IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _TRACE_IDS + rb"(?:-[!-~]{0,200})?")


def trace_id_of(trace_parent: bytes | None) -> str | None:
    """Return the trace id of a `traceparent` header, None if there is none. Source: W3C Trace Context, section 3.2."""
    found = _TRACE_PARENT.fullmatch(trace_parent or b"")
    return (found[1] or found[2]).decode() if found else None


def valid_trace_parent(raw: bytes | None) -> bytes | None:
    """Return a `traceparent` header as it came, or None if it is malformed, as the standard wants.

    What is kept travels on to results, so it must not have any length.
    """
    return raw if raw and _TRACE_PARENT.fullmatch(raw) else None

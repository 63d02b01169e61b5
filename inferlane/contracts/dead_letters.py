"""Dead letters: the whole original record, its position in Kafka, and the reason why it could not be served."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inferlane.contracts.kafka_record import (
    Headers,
    KafkaRecord,
    OutRecord,
    headers_bytes,
    is_unreadable,
    last_offset,
    refuse_unreadable,
)
from inferlane.contracts.record import DEAD_LETTER_TYPE, MAX_NAME_BYTES, RequestHeaders, default_headers, read_headers
from inferlane.errors import DecodeError, clipped

# A person reads the reason in a list; a model's own message may have any length.
_DETAIL_LIMIT_CHARS = 2_000
# Keys and headers up to this fit beside a value of the largest size, in what `record_limit_bytes` reserves for them: a
# foreign record may have any headers and any key.
_HEADERS_LIMIT_BYTES = 32 * 1024
_KEY_LIMIT_BYTES = 8 * 1024
_REFERENCE_DETAIL_CHARS = 200
HEADER_PREFIX = "inferlane-dead-letter-"
# The type of the original record, under another name: the dead letter has a `ce_type` of its own.
_OWN_TYPE = HEADER_PREFIX + "type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a record could not be served. `reason` is an error code of `inferlane.errors`."""

    reason: str
    detail: str
    attempts: int
    # Where the error was raised, innermost last; empty when it was decided rather than raised.
    stack: str = ""


def dead_letter(record: KafkaRecord, cause: Cause, *, topic: str, limit_bytes: int) -> OutRecord:
    """Return the dead letter of `record` for `topic`: its key, value and headers, with our own headers added.

    Every record has a dead letter that can be written; otherwise one record could block its lane for ever. A value over
    `limit_bytes` is cut to it, a key or headers that leave no room are cut too, and the dead letter says what was cut.
    With a limit below 0 it has only the position of the record. Its timestamp is the present time: retention goes by
    the timestamp, and a replayed record may be old.
    """
    if limit_bytes < 0:
        return _reference(record, cause, topic=topic)
    about = {
        "reason": cause.reason,
        "detail": cause.detail[:_DETAIL_LIMIT_CHARS],
        "attempts": str(cause.attempts),
        "stack": cause.stack[:_DETAIL_LIMIT_CHARS],
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
    }
    kept = [_own_header(header) for header in record.headers if not header[0].startswith(HEADER_PREFIX)]
    if headers_bytes(kept) > _HEADERS_LIMIT_BYTES:
        kept = [(name, value[:MAX_NAME_BYTES]) for name, value in kept if name == "ce_id" and value][-1:]
        about["headers-dropped"] = "true"
    key, value = record.key or b"", record.value or b""
    # A part of the value is better than a lane that stops at a record that cannot be kept.
    if len(key) > _KEY_LIMIT_BYTES:
        about["key-bytes"] = str(len(key))
    if is_unreadable(record.headers):
        about["last-offset"] = last_offset(record.headers)
    if len(value) > limit_bytes:
        about["value-bytes"] = str(len(value))
    if absent := [part for part in ("key", "value") if getattr(record, part) is None]:
        about["absent"] = " ".join(absent)
    ours = [(HEADER_PREFIX + name, text.encode(errors="replace")) for name, text in about.items()]
    return OutRecord(topic, key[:_KEY_LIMIT_BYTES], value[:limit_bytes], [*kept, DEAD_LETTER_TYPE, *ours])


def _reference(record: KafkaRecord, cause: Cause, *, topic: str) -> OutRecord:
    """Return what fits everywhere: why, and the topic, partition and offset at which the record lies."""
    about = {
        "reason": cause.reason,
        "detail": cause.detail[:_REFERENCE_DETAIL_CHARS],
        "attempts": str(cause.attempts),
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
        "reference-only": "true",
        "value-bytes": str(len(record.value or b"")),
    }
    ids = [
        (name, value) for name, value in record.headers if name == "ce_id" and 0 < len(value or b"") <= MAX_NAME_BYTES
    ]
    ours = [(HEADER_PREFIX + name, text.encode(errors="replace")) for name, text in about.items()]
    return OutRecord(topic, b"", b"", [*ids[-1:], DEAD_LETTER_TYPE, *ours])


def _own_header(header: tuple[str, bytes]) -> tuple[str, bytes]:
    return (_OWN_TYPE, header[1]) if header[0] == "ce_type" else header


_FRAMES = 6


def stack_of(error: BaseException) -> str:
    """Return where the innermost cause of `error` was raised: its last frames, `file:line function`, and no values."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return "\n".join([*lines, type(error).__name__])


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A dead-lettered record as it was, a `KafkaRecord` like one that was consumed."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter as read. `offset` is its own, in `inferlane.dead-letters`; times are seconds since the epoch."""

    offset: int
    dead_lettered_s: float
    cause: Cause
    original: Original
    # Not None when the value, the key or the headers were too large to keep, or for a whole batch that could not be
    # read: such a record cannot be replayed.
    cut: str | None


def read_dead_letter(record: KafkaRecord) -> DeadLetter:
    """Read a record of `inferlane.dead-letters`.

    Raises:
        DecodeError: the record is not a dead letter.
    """
    refuse_unreadable(record.topic, record.partition, record.offset, record.headers)
    try:
        text = {
            name.removeprefix(HEADER_PREFIX): (value or b"").decode()
            for name, value in record.headers
            if name.startswith(HEADER_PREFIX) and name != _OWN_TYPE
        }
        absent = text.get("absent", "").split()
        return DeadLetter(
            offset=record.offset,
            dead_lettered_s=record.timestamp / 1000,
            cause=Cause(
                reason=text["reason"],
                detail=text["detail"],
                attempts=int(text["attempts"]),
                stack=text.get("stack", ""),
            ),
            original=Original(
                topic=text["topic"],
                partition=int(text["partition"]),
                offset=int(text["offset"]),
                timestamp=int(text["timestamp"]),
                key=None if "key" in absent else record.key,
                value=None if "value" in absent else record.value,
                headers=_original_headers(record),
            ),
            cut=_what_was_cut(text),
        )
    except (KeyError, ValueError) as error:
        raise DecodeError(
            f"the record at offset {record.offset} is no dead letter of ours: {clipped(repr(error))}"
        ) from error


def _original_headers(letter: KafkaRecord) -> Headers:
    foreign = (header for header in letter.headers if header[0] != "ce_type")
    renamed = (("ce_type", value) if name == _OWN_TYPE else (name, value) for name, value in foreign)
    return tuple(header for header in renamed if not header[0].startswith(HEADER_PREFIX))


def _what_was_cut(about: Mapping[str, str]) -> str | None:
    if last := about.get("last-offset"):
        return f"it stands for the batch with the offsets {about['offset']} to {last}, which could not be read"
    if "reference-only" in about:
        return f"its {about['value-bytes']} bytes are only where they were: the topic of dead letters takes no more"
    for part in ("value", "key"):
        if size_bytes := about.get(f"{part}-bytes"):
            return f"of the {size_bytes} bytes of its {part} only the first were kept"
    return "its headers were too large to keep" if "headers-dropped" in about else None


def headers_of(letter: DeadLetter) -> RequestHeaders:
    """Return the headers of the dead-lettered request, or the defaults under which it was answered."""
    try:
        return read_headers(letter.original)
    except DecodeError:
        return default_headers(letter.original)

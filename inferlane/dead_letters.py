"""Dead letters: the original record whole, with where it was and why it could not be served."""

import traceback
from dataclasses import dataclass
from pathlib import Path

from inferlane.errors import DecodeError
from inferlane.kafka.producing import OutRecord
from inferlane.record import DEAD_LETTER_TYPE, Headers, KafkaRecord
from inferlane.topics import DEAD_LETTERS

# A reason is for a person to read in a list; a model's own message may be as long as it likes.
_DETAIL_LIMIT_CHARS = 2_000
# What fits beside a value of the largest size; a foreign record may have any headers.
_HEADERS_LIMIT_BYTES = 32 * 1024
_PREFIX = "inferlane-dead-letter-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a record could not be served. `reason` is an error code of `inferlane.errors`."""

    reason: str
    detail: str
    attempts: int
    # Where the error was raised, innermost last; empty when it was decided rather than raised.
    stack: str = ""


def dead_letter(record: KafkaRecord, cause: Cause, *, limit_bytes: int) -> OutRecord:
    """The dead letter of `record`: its key, value and headers unchanged, and our headers about it added.

    A value over `limit_bytes` is cut to it, and a header tells its whole length. The letter is stamped now: retention
    goes by the timestamp, and a replayed record may be old.
    """
    about = {
        "reason": cause.reason,
        "detail": cause.detail[:_DETAIL_LIMIT_CHARS],
        "attempts": str(cause.attempts),
        "stack": cause.stack,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
    }
    own_type = dict(record.headers).get("ce_type")
    if own_type is not None:
        about["type"] = own_type.decode(errors="replace")
    kept = [(name, value) for name, value in record.headers if not name.startswith(_PREFIX) and name != "ce_type"]
    if sum(len(name) + len(value or b"") for name, value in kept) > _HEADERS_LIMIT_BYTES:
        kept = [(name, value) for name, value in kept if name == "ce_id"]
        about["headers-dropped"] = "true"
    headers = [*kept, DEAD_LETTER_TYPE, *((_PREFIX + name, value.encode()) for name, value in about.items())]
    value = record.value or b""
    if len(value) > limit_bytes:
        # The head of it is better than nothing, and better than a lane that stops at a record that cannot be kept.
        headers.append((_PREFIX + "value-bytes", str(len(value)).encode()))
        value = value[:limit_bytes]
    return OutRecord(DEAD_LETTERS, record.key or b"", value, headers)


_FRAMES = 6


def stack_of(error: BaseException) -> str:
    """Where the innermost cause of `error` was raised: its last frames, `file:line function`, and no values."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return "\n".join([*lines, type(error).__name__])


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A buried record as it was, in the shape of a consumed one (`inferlane.record.KafkaRecord`)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A letter that was read. `offset` is its own, in `inferlane.dead-letters`; times are seconds since the epoch."""

    offset: int
    buried_s: float
    cause: Cause
    original: Original
    # Not None when the value, or the headers, were too large to keep: such a record cannot be replayed.
    cut: str | None


def read_dead_letter(record: KafkaRecord) -> DeadLetter:
    """Read a record of `inferlane.dead-letters`.

    Raises:
        DecodeError: it is no dead letter of ours.
    """
    about = {name.removeprefix(_PREFIX): value for name, value in record.headers if name.startswith(_PREFIX)}
    kept = [(name, value) for name, value in record.headers if not name.startswith(_PREFIX) and name != "ce_type"]
    try:
        text = {name: value.decode() for name, value in about.items()}
        if "type" in text:
            kept.append(("ce_type", about["type"]))
        return DeadLetter(
            offset=record.offset,
            buried_s=record.timestamp / 1000,
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
                key=record.key,
                value=record.value,
                headers=tuple(kept),
            ),
            cut=_what_was_cut(text),
        )
    except (KeyError, ValueError) as error:
        raise DecodeError(f"the record at offset {record.offset} is no dead letter of ours: {error!r}") from error


def _what_was_cut(about: dict[str, str]) -> str | None:
    if "value-bytes" in about:
        return f"of its {about['value-bytes']} bytes only the first were kept"
    return "its headers were too large to keep" if "headers-dropped" in about else None


def reason_of(record: OutRecord) -> str:
    """The reason that a dead letter gives."""
    return dict(record.headers)[_PREFIX + "reason"].decode()

"""Dead letters: the original record whole, with where it was and why it could not be served."""

from inferlane.kafka.producing import OutRecord
from inferlane.record import DEAD_LETTER_TYPE, KafkaRecord
from inferlane.topics import DEAD_LETTERS

# A reason is for a person to read in a list; a model's own message may be as long as it likes.
_DETAIL_LIMIT_CHARS = 2_000
# What fits beside a value of the largest size; a foreign record may have any headers.
_HEADERS_LIMIT_BYTES = 32 * 1024
_ID_LIMIT_BYTES = 512
_PREFIX = "inferlane-dead-letter-"


def dead_letter(record: KafkaRecord, *, reason: str, detail: str, attempts: int, limit_bytes: int) -> OutRecord:
    """The dead letter of `record`: its key, value and headers unchanged, and our headers about it added.

    `reason` is an error code of `inferlane.errors`. A value that with its key is over `limit_bytes` is cut, and
    a header tells its whole length. The letter is stamped now: retention goes by the timestamp, and a replayed record
    may be old.
    """
    about = {
        "reason": reason,
        "detail": detail[:_DETAIL_LIMIT_CHARS],
        "attempts": str(attempts),
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
    }
    kept = [(name, value) for name, value in record.headers if not name.startswith(_PREFIX) and name != "ce_type"]
    if sum(len(name) + len(value or b"") for name, value in kept) > _HEADERS_LIMIT_BYTES:
        kept = [(name, value) for name, value in kept if name == "ce_id" and len(value or b"") <= _ID_LIMIT_BYTES][:1]
    headers = [*kept, DEAD_LETTER_TYPE, *((_PREFIX + name, value.encode()) for name, value in about.items())]
    key, value = (record.key or b"")[:limit_bytes], record.value or b""
    room_bytes = limit_bytes - len(key)
    if len(value) > room_bytes:
        # The head of it is better than nothing, and better than a lane that stops at a record that cannot be kept.
        headers.append((_PREFIX + "value-bytes", str(len(value)).encode()))
        value = value[:room_bytes]
    return OutRecord(DEAD_LETTERS, key, value, headers)


def reason_of(record: OutRecord) -> str:
    """The reason that a dead letter gives."""
    return dict(record.headers)[_PREFIX + "reason"].decode()

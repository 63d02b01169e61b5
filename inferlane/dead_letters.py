"""Dead letters: the original record whole, with where it was and why it could not be served."""

from inferlane.kafka.producing import OutRecord
from inferlane.record import DEAD_LETTER_TYPE, KafkaRecord
from inferlane.topics import DEAD_LETTERS

# A reason is for a person to read in a list; a model's own message may be as long as it likes.
_DETAIL_LIMIT_CHARS = 2_000
_PREFIX = "inferlane-dead-letter-"


def dead_letter(record: KafkaRecord, *, reason: str, detail: str, attempts: int) -> OutRecord:
    """The dead letter of `record`: its key, value and headers unchanged, and our headers about it added.

    `reason` is an error code of `inferlane.errors`.
    """
    about = {
        "reason": reason,
        "detail": detail[:_DETAIL_LIMIT_CHARS],
        "attempts": str(attempts),
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
    }
    kept = [(name, value) for name, value in record.headers if not name.startswith(_PREFIX) and name != "ce_type"]
    headers = [*kept, DEAD_LETTER_TYPE, *((_PREFIX + name, value.encode()) for name, value in about.items())]
    return OutRecord(DEAD_LETTERS, record.key or b"", record.value or b"", headers, record.timestamp)

"""Writing dead letters, whatever the state of their topic: one that cannot be kept never holds what comes behind it."""

from collections.abc import Sequence

import structlog

from inferlane.contracts.dead_letters import Cause, dead_letter
from inferlane.contracts.outgoing import OutRecord, check_size
from inferlane.contracts.record import KafkaRecord
from inferlane.errors import InferlaneError, PayloadTooLargeError
from inferlane.runtime.kafka.writing import Sender, write_each
from inferlane.runtime.retry import Retrier

log = structlog.get_logger(__name__)

Unserved = tuple[KafkaRecord, Cause]
_STAGE = "dead_letters"


class DeadLetterWriter:
    """Keeps records that could not be served. One event loop."""

    def __init__(self, sender: Sender, retrier: Retrier, *, topic: str, limit_bytes: int) -> None:
        """`limit_bytes`: what is kept of a value at most."""
        self._topic = topic
        self._sender = sender
        self._retrier = retrier
        self._limit_bytes = limit_bytes

    async def write(self, unserved: Sequence[Unserved]) -> Sequence[InferlaneError | None]:
        """Return, for each record, None when its letter is kept, else why there is none: its topic is gone or denied.

        A letter that its topic finds too large is cut to what the topic takes, at last to where the record lies.
        """
        letters = [
            dead_letter(record, cause, topic=self._topic, limit_bytes=self._limit_bytes) for record, cause in unserved
        ]
        outcomes = list(await write_each(self._sender, self._retrier, letters, stage=_STAGE))
        for cut in (_cut_to, _cut_to_reference):
            large = [number for number, error in enumerate(outcomes) if isinstance(error, PayloadTooLargeError)]
            smaller = [cut(unserved[number], letters[number], outcomes[number]) for number in large]
            again = await write_each(self._sender, self._retrier, smaller, stage=_STAGE)
            for number, outcome in zip(large, again, strict=True):
                outcomes[number] = outcome
        for (record, cause), error in zip(unserved, outcomes, strict=True):
            if error is not None:
                log.error(
                    "dead_letter_not_kept",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    reason=cause.reason,
                    error=str(error),
                    remedy="the record lies at this offset until retention takes it",
                )
        return outcomes


def _cut_to(unserved: Unserved, letter: OutRecord, error: InferlaneError | None) -> OutRecord:
    record, cause = unserved
    limit_bytes = getattr(error, "limit_bytes", None) or 0
    around_bytes = check_size(letter, limit_bytes=2**62) - len(letter.value)
    return dead_letter(record, cause, topic=letter.topic, limit_bytes=limit_bytes - around_bytes)


def _cut_to_reference(unserved: Unserved, letter: OutRecord, _error: InferlaneError | None) -> OutRecord:
    record, cause = unserved
    return dead_letter(record, cause, topic=letter.topic, limit_bytes=-1)

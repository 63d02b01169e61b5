"""Count dead letters by reason and keep the newest, reading the topic incrementally."""

from collections import Counter, deque
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from inferlane.contracts.dead_letters import DeadLetter, headers_of, read_dead_letter
from inferlane.errors import DecodeError
from inferlane.runtime.kafka.clients import partitions_of
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.metrics.instruments import bounded, error_reasons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.kafka_record import KafkaRecord
    from inferlane.contracts.naming import Names
    from inferlane.runtime.kafka.offsets import Position
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.settings import KafkaSettings

# How far back the page looks when it starts: far enough for "since yesterday", near enough to read at once.
LOOK_BACK_S = 24 * 3600.0
_SHOWN = 20
_DETAIL_CHARS = 300


class DeadLetterSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter without its value. `cut` says why it cannot be replayed, if so; times are since the epoch."""

    offset: int
    request_id: str
    dead_lettered_s: float
    reason: str
    detail: str
    model: str | None
    version: str | None
    attempts: int
    cut: str | None


class DeadLetterCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of dead letters. `kept`: how many the topic holds; the other fields cover the last day."""

    kept: int = 0
    by_reason: dict[str, int] = {}
    newest: tuple[DeadLetterSummary, ...] = ()


class DeadLetterTally:
    """Count every dead letter once. One event loop, one caller at a time."""

    def __init__(self, kafka: "KafkaSettings", names: "Names", *, clock: "Clock") -> None:
        self._kafka = kafka
        self._names = names
        self._clock = clock
        # Anybody can write to the topic: what is no reason of ours is counted together.
        self._reasons = error_reasons(beside=("unknown",))
        self._forget()

    def _forget(self) -> None:
        # The first offset that was not counted, of each partition, and the sum of their ends at the last look.
        self._next_offsets: dict[int, int] = {}
        self._seen_end = 0
        self._since_s: float | None = None
        self._by_reason: Counter[str] = Counter()
        self._newest: deque[DeadLetterSummary] = deque(maxlen=_SHOWN)

    async def look(self, position: "Position") -> DeadLetterCounts:
        """Read what is new since the last call; the broker is not asked if `position` has not moved.

        Raises:
            UnavailableError: the broker does not answer; the next look goes on where this one ended.
        """
        if position.end < self._seen_end:
            # The topic was made anew.
            self._forget()
        if position.end > max(self._seen_end, sum(self._next_offsets.values())):
            since_s = self._clock.now_s() - LOOK_BACK_S if self._since_s is None else self._since_s
            partitions = await partitions_of(self._kafka, self._names.dead_letters)
            async with aclosing(read_since(self._kafka, partitions, since_s=since_s)) as batches:
                async for records in batches:
                    self.add(records)
            self._seen_end = position.end
        return DeadLetterCounts(
            kept=position.lag_records,
            by_reason=dict(self._by_reason.most_common()),
            newest=tuple(reversed(self._newest)),
        )

    def add(self, records: "Sequence[KafkaRecord]") -> None:
        """Count these records, except those that were counted before."""
        for record in records:
            if record.offset < self._next_offsets.get(record.partition, 0):
                continue
            self._next_offsets[record.partition] = record.offset + 1
            # More of the same millisecond may follow: reading resumes at this time, and offsets tell which are new.
            self._since_s = record.timestamp / 1000
            try:
                letter = read_dead_letter(record)
            except DecodeError:
                continue
            self._by_reason[bounded(letter.cause.reason, self._reasons)] += 1
            self._newest.append(_shown(letter))


def _shown(letter: DeadLetter) -> DeadLetterSummary:
    headers = headers_of(letter)
    return DeadLetterSummary(
        offset=letter.offset,
        request_id=headers.request_id,
        dead_lettered_s=letter.dead_lettered_s,
        reason=letter.cause.reason,
        detail=letter.cause.detail.partition("\n")[0][:_DETAIL_CHARS],
        model=headers.model,
        version=headers.version,
        attempts=letter.cause.attempts,
        cut=letter.cut,
    )

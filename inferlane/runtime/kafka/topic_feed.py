"""The records of one topic, from a consumer that reads many: queued, handed out in batches, noted as finished."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiokafka import ConsumerRecord, TopicPartition

from inferlane.runtime.kafka.attempts import AttemptLog, Attempts
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.kafka.lag import ConsumerHealth, ConsumerState, Progress
from inferlane.runtime.kafka.offsets import OffsetTracker
from inferlane.runtime.metrics.consumer_metrics import CONSUMER_LAG, CONSUMER_STILL
from inferlane.runtime.metrics.instruments import forget_series

if TYPE_CHECKING:
    from inferlane.errors import FatalRecordError
    from inferlane.runtime.settings import KafkaSettings

# A topic with more queued than this is not fetched until less than `_FEW` of it is left. Lower limits leave a version
# without work during a fetch, higher ones take memory for each version with a backlog.
MOST_QUEUED_RECORDS = 1_024
_MOST_QUEUED_BYTES = 4 * 1024 * 1024
_FEW = 0.5
_LOOK_AGAIN_S = 0.05


class FeedOwner(Protocol):
    """The consumer that a feed belongs to: `inferlane.runtime.kafka.shared_consumer.SharedConsumer`."""

    async def connect(self, feed: "TopicFeed") -> None:
        """Start reading the topic."""
        ...

    async def disconnect(self, feed: "TopicFeed") -> None:
        """Commit finished work and stop reading the topic."""
        ...

    async def commit(self, feed: "TopicFeed") -> None:
        """Commit finished work now."""
        ...

    def commit_soon(self) -> None:
        """Note that finished work can be committed."""
        ...

    def note_room(self, feed: "TopicFeed") -> None:
        """Note that the queue has room again."""
        ...

    def is_read(self, partition: TopicPartition) -> bool:
        """Return whether every record of the partition that there was at the last fetch was returned."""
        ...

    def check(self) -> None:
        """Check that the consumer works.

        Raises:
            ConsumerBrokenError: it will never fetch again.
        """
        ...


@dataclass(slots=True, eq=False)
class _Chunk:
    """The records of a partition from one fetch, and the offset of the next fetch."""

    partition: TopicPartition
    records: Sequence[ConsumerRecord]
    position: int
    taken: int = 0


class TopicFeed:
    """Reads like a `LaneConsumer`. Used from one event loop."""

    def __init__(  # noqa: PLR0913 - what it reads, and for whom
        self,
        kafka: "KafkaSettings",
        owner: FeedOwner,
        *,
        topic: str,
        group: str,
        is_blocked: Callable[[], bool] = lambda: False,
        attempt_log: AttemptLog | None = None,
        in_flight: int = 1,
    ) -> None:
        """`is_blocked` and `in_flight` as for a `LaneConsumer`."""
        self.topic = topic
        self.group = group
        # The partitions that are read now; none before the owner reads them.
        self.partitions: tuple[TopicPartition, ...] = ()
        self.is_blocked = is_blocked
        self.progress = Progress(stuck_after_s=kafka.stuck_after_s)
        self._owner = owner
        self._attempts = Attempts(attempt_log, topic=topic, max_deaths=kafka.max_deaths)
        self._in_flight = in_flight
        self._tracker: OffsetTracker[TopicPartition] = OffsetTracker()
        self._chunks: deque[_Chunk] = deque()
        self._queued_records = self._queued_bytes = 0
        self._arrived = asyncio.Event()
        CONSUMER_LAG.labels(topic).set_function(lambda: self.health().lag_records)
        CONSUMER_STILL.labels(topic).set_function(lambda: self.health().still_s)

    # What a lane asks.

    @property
    def has_joined(self) -> bool:
        """Whether the topic is read."""
        return bool(self.partitions)

    def health(self) -> ConsumerHealth:
        """Its lag and whether it makes progress."""
        if not self.has_joined:
            return ConsumerHealth(state=ConsumerState.JOINING, lag_records=0, still_s=0.0)
        return self.progress.health(now_s=time.monotonic())

    async def start(self) -> None:
        """Start reading the topic."""
        await self._owner.connect(self)

    async def fetch(self, *, max_records: int, timeout_s: float) -> FetchedBatch | None:
        """Return what is queued, at most `max_records`; wait up to `timeout_s` for the first one.

        Raises:
            ConsumerBrokenError: the consumer will never fetch again; the process must be replaced.
        """
        self._owner.check()
        if not self._chunks:
            self._arrived.clear()
            timer = asyncio.get_running_loop().call_later(timeout_s, self._arrived.set)
            try:
                await self._arrived.wait()
            finally:
                timer.cancel()
            if not self._chunks:
                return await self._suspect() if self._attempts.careful else None
        firsts: dict[int, int] = {}
        for chunk in self._chunks:
            if chunk.records:
                firsts.setdefault(chunk.partition.partition, chunk.records[chunk.taken].offset)
        await self._attempts.begin(firsts, window=max_records * self._in_flight)
        if self._attempts.careful:
            return await self._suspect()
        return self._begin(*self._take(max_records))

    def wake(self) -> None:
        """End the wait of `fetch`."""
        self._arrived.set()

    def finish(self, batch: FetchedBatch) -> None:
        """Note that every record of `batch` has a durable result; the offsets are committed soon."""
        self._tracker.finish(batch.ticket)
        if self._tracker.has_committable:
            self._owner.commit_soon()

    async def begin_alone(self, batch: FetchedBatch) -> "FatalRecordError | None":
        """As `LaneConsumer.begin_alone`.

        Raises:
            UnavailableError: that cannot be noted now; do not work on the record.
        """
        (record,) = batch.records
        await self._owner.commit(self)
        return await self._attempts.begin_alone(record.partition, record.offset)

    async def close(self) -> None:
        """Commit finished work and stop reading the topic; unfinished records are redelivered."""
        await self._owner.disconnect(self)
        self.lose()
        forget_series((CONSUMER_LAG, CONSUMER_STILL), self.topic)

    # What the owner asks.

    @property
    def is_full(self) -> bool:
        """Whether the queue is full, so nothing more should be fetched for now."""
        return self._queued_records >= MOST_QUEUED_RECORDS or self._queued_bytes >= _MOST_QUEUED_BYTES

    @property
    def is_hurried(self) -> bool:
        """Whether finished work should be committed at once, because a process died here."""
        return self._attempts.is_hurried

    def offer(self, partition: TopicPartition, records: Sequence[ConsumerRecord], position: int) -> None:
        """Queue the fetched records of a partition; there may be none, but only a new position."""
        self._chunks.append(_Chunk(partition, records, position))
        self._queued_records += len(records)
        self._queued_bytes += sum(map(_size_of, records))
        self._arrived.set()

    def take_committable(self) -> dict[TopicPartition, int]:
        """Return what may be committed and was not returned before."""
        return self._tracker.take_committable()

    def put_back(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Take back offsets that could not be committed."""
        self._tracker.put_back(offsets)

    def note_committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note the committed offsets of the group."""
        for partition, offset in offsets.items():
            self.progress.note_done(partition.partition, offset)

    def gain(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note that exactly these partitions are read from now on, from these offsets."""
        self.partitions = tuple(offsets)
        self.note_committed(offsets)

    def lose(self) -> None:
        """Drop queued and unfinished records: another process reads on from the last commit."""
        self.partitions = ()
        self._chunks.clear()
        self._queued_records = self._queued_bytes = 0
        self._tracker.forget()
        self._attempts.start_over()
        self.progress.start_over()

    def _begin(
        self, records: Sequence[ConsumerRecord], next_offsets: Mapping[TopicPartition, int], *, is_suspect: bool = False
    ) -> FetchedBatch | None:
        batch = FetchedBatch(records, self._tracker.begin(next_offsets), is_suspect=is_suspect)
        if not records:
            # Offsets without a record, such as transaction markers, are committed too, or they would stay lag for ever.
            self.finish(batch)
            return None
        return batch

    def _take(self, max_records: int) -> tuple[list[ConsumerRecord], dict[TopicPartition, int]]:
        records: list[ConsumerRecord] = []
        next_offsets: dict[TopicPartition, int] = {}
        while self._chunks and len(records) < max_records:
            chunk = self._chunks[0]
            part = chunk.records[chunk.taken : chunk.taken + max_records - len(records)]
            chunk.taken += len(part)
            is_empty = chunk.taken == len(chunk.records)
            next_offsets[chunk.partition] = chunk.position if is_empty else part[-1].offset + 1
            records += part
            if is_empty:
                self._chunks.popleft()
        self._note_taken(records)
        return records, next_offsets

    def _note_taken(self, records: Sequence[ConsumerRecord]) -> None:
        self._queued_records -= len(records)
        self._queued_bytes -= sum(map(_size_of, records))
        if self._queued_records <= _FEW * MOST_QUEUED_RECORDS and self._queued_bytes <= _FEW * _MOST_QUEUED_BYTES:
            self._owner.note_room(self)

    async def _suspect(self) -> FetchedBatch | None:
        """One record of a partition on which processes died, or nothing where the suspicion ends."""
        number, attempt = next(iter(self._attempts.careful.items()))
        partition = next((known for known in self.partitions if known.partition == number), None)
        chunk = next((chunk for chunk in self._chunks if chunk.partition.partition == number), None)
        if partition is None or (chunk is None and self._owner.is_read(partition)):
            await self._leave(number)
        elif chunk is not None and not chunk.records:
            self._chunks.remove(chunk)
            return self._begin([], {chunk.partition: chunk.position})
        elif chunk is not None:
            record = chunk.records[chunk.taken]
            if record.offset >= attempt.careful_until:
                await self._leave(number)
                return None
            chunk.taken += 1
            is_empty = chunk.taken == len(chunk.records)
            if is_empty:
                self._chunks.remove(chunk)
            self._note_taken([record])
            next_offset = chunk.position if is_empty else record.offset + 1
            return self._begin([record], {chunk.partition: next_offset}, is_suspect=True)
        else:
            # More records of it follow, while others may be queued already.
            await asyncio.sleep(_LOOK_AGAIN_S)
        return None

    async def _leave(self, number: int) -> None:
        await self._owner.commit(self)  # or it would be met again with nothing noted of it
        await self._attempts.leave(number)


def _size_of(record: ConsumerRecord) -> int:
    # -1 stands for none; the error in the sum is negligible.
    size_bytes: int = record.serialized_key_size + record.serialized_value_size
    return size_bytes

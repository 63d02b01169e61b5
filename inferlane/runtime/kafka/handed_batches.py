"""Batches that a producer on this machine has written, handed to the consumer beside it with the signal.

The broker stays the only truth. A batch is handed on when the broker has acknowledged it, with the offset that the
broker gave it, and is taken only where the consumer's position lies or where the batches that it holds end. After a
gap, a seek or a rebalance, or when too much waits, the consumer fetches.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher

from inferlane.runtime.kafka.batch_head import BatchHead
from inferlane.runtime.kafka.fetch_loop import LoopedFetcher
from inferlane.runtime.kafka.recreated_topics import KnownLogs

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.runtime.kafka.arrivals import Taker

log = structlog.get_logger(__name__)

# Of one consumer, beyond what it is reading.
_MOST_WAITING_BYTES = 1024 * 1024


class HandedBatch(NamedTuple):
    """A whole batch: the offset of its first record, the offset behind its last one, and its bytes."""

    base_offset: int
    end_offset: int
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> "HandedBatch | None":
        """Return what the bytes are; None if they are not one whole batch of format 2."""
        head = BatchHead.of(raw)
        if head is None or head.size_bytes != len(raw) or head.end_offset <= head.base_offset:
            return None
        return cls(head.base_offset, head.end_offset, raw)


class WaitingBatches:
    """Batches of some partitions, each a sequence without a gap."""

    def __init__(self) -> None:
        self._waiting: dict[TopicPartition, deque[HandedBatch]] = {}
        self._bytes = 0

    def add(self, partition: TopicPartition, batch: HandedBatch) -> bool:
        """Add a batch behind those of its partition; return False if it does not follow them, or there is no room."""
        waiting = self._waiting.setdefault(partition, deque())
        if waiting and waiting[-1].end_offset != batch.base_offset:
            return False
        if self._bytes + len(batch.raw) > _MOST_WAITING_BYTES:
            return False
        waiting.append(batch)
        self._bytes += len(batch.raw)
        return True

    def take(self, partition: TopicPartition, position: int) -> bytes | None:
        """Return the batches from this position on, and keep none; None if there is none, or a gap before them."""
        batches = [batch for batch in self._waiting.pop(partition, ()) if self._is_out(batch) > position]
        if not batches or batches[0].base_offset > position:
            return None
        return batches[0].raw if len(batches) == 1 else b"".join([batch.raw for batch in batches])

    def drop(self, partition: TopicPartition) -> None:
        """Forget the batches of this partition."""
        self.take(partition, -1)

    def clear(self) -> None:
        """Forget all batches."""
        self._waiting.clear()
        self._bytes = 0

    def _is_out(self, batch: HandedBatch) -> int:
        self._bytes -= len(batch.raw)
        return batch.end_offset


class HandedFetcher(LoopedFetcher):
    """A fetcher that also returns what it is handed, as if it had fetched it."""

    _records: "dict[TopicPartition, Any]"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting = WaitingBatches()
        self._waiting_for: Any = None
        self._logs = KnownLogs()
        self.was_handed = False
        """Whether a batch was taken since this was last set to False."""

    def take(self, topic: str, number: int, raw: bytes) -> bool:
        """Take a batch of the partition of that number; return False if the broker must be asked instead."""
        assignment, batch = self._assignment(), HandedBatch.of(raw)
        if assignment is None or batch is None:
            return False
        partition = TopicPartition(topic, number)
        if partition not in assignment.tps:
            # It belongs to another consumer.
            return True
        state = assignment.state_value(partition)
        if state.has_valid_position and batch.base_offset < state.position:
            is_first = batch.base_offset == 0 and partition not in self._records
            if is_first and not self._logs.has_read_first(partition, raw):
                # We are behind the first batch of a log, and have not read it: the topic was created again.
                self.start_over(state, partition, end=batch.end_offset)
                return False
            if batch.end_offset <= state.position:
                # A fetch was faster.
                return True
        is_next = state.has_valid_position and not state.paused and self._waiting.add(partition, batch)
        self.was_handed = self.was_handed or is_next
        if is_next and partition not in self._records:
            is_next = self._bring(partition)
            self.wake_caller()
        if not is_next:
            self._waiting.drop(partition)
        # Also of a batch that was not taken: the partition does not rest before it was fetched.
        state.highwater, state.lso = (max(known or 0, batch.end_offset) for known in (state.highwater, state.lso))
        return is_next

    def goes_on(self, partition: TopicPartition, first_batch: memoryview) -> bool:
        """Return whether what was brought of a partition goes on where it was read last; if not, it starts over."""
        assignment = self._assignment()
        if assignment is None or partition not in assignment.tps:
            return True
        state = assignment.state_value(partition)
        if not state.has_valid_position or not self._logs.is_other(partition, first_batch, state.position):
            return True
        self.start_over(state, partition, end=state.position)
        return False

    def note_end(self, partition: TopicPartition, read_to: int | None) -> None:
        """Note where the last batch ended that was read whole, if one was."""
        if read_to is not None:
            self._logs.note_end(partition, read_to)

    def start_over(self, state: Any, partition: TopicPartition, *, end: int) -> None:
        """Read the partition from its first record, because its log, which ends at `end` or behind, is another one."""
        log.warning(
            "topic_recreated",
            topic=partition.topic,
            partition=partition.partition,
            position=state.position,
            end=end,
            effect="it is read from its first record",
        )
        state.await_reset(fetcher.OffsetResetStrategy.EARLIEST)
        # aiokafka looks for no position of a partition while it holds records of it.
        self._records.pop(partition, None)
        self._waiting.drop(partition)
        self._notify(self._wait_consume_future)

    def note_answer(self, assignment: Any, request: Any) -> None:
        """Note that the broker was asked for these partitions; forget what was handed where it refused the position.

        aiokafka looks for no position of a partition while it holds records of it.
        """
        for topic, parts in request.topics:
            for number, _, _ in parts:
                partition = TopicPartition(topic, number)
                if partition in self._records and not assignment.state_value(partition).has_valid_position:
                    del self._records[partition]

    def is_outdated(self, assignment: Any, request: Any) -> bool:
        """Return whether something was handed since the request was made, which would be fetched once more."""
        return any(
            self._is_elsewhere(assignment, TopicPartition(topic, number), position)
            for topic, parts in request.topics
            for number, position, _ in parts
        )

    def _is_elsewhere(self, assignment: Any, partition: TopicPartition, position: int) -> bool:
        state = assignment.state_value(partition)
        return partition in self._records or not state.has_valid_position or state.position != position

    def _set_error(self, partition: TopicPartition, error: Exception) -> None:
        # A fetch failed while the partition was handed something, where aiokafka expects nothing.
        self._records.pop(partition, None)
        super()._set_error(partition, error)

    def _bring(self, partition: TopicPartition) -> bool:
        """Let what was handed for the partition be returned next; False if that is nothing."""
        assignment = self._assignment()
        if assignment is None or partition not in assignment.tps:
            return False
        state = assignment.state_value(partition)
        raw = self._waiting.take(partition, state.position) if state.has_valid_position else None
        if raw is None:
            return False
        records = fetcher.PartitionRecords(
            partition,
            fetcher.MemoryRecords(raw),
            [],
            state.position,
            self._key_deserializer,
            self._value_deserializer,
            self._check_crcs,
            self._isolation_level,
        )
        # Without a backoff, or no other partition would be fetched while this one is always handed more.
        self._records[partition] = fetcher.FetchResult(
            partition, partition_records=records, assignment=assignment, backoff=0
        )
        return True

    def _assignment(self) -> Any:
        """Return the assignment that is in force, if any; what was handed for an earlier one is forgotten."""
        subscription = self._subscriptions.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is not self._waiting_for:
            self._waiting.clear()
            self._logs.forget_ends()
            self._waiting_for = assignment
        return assignment if assignment is not None and assignment.active else None


def handed_to(consumer: "AIOKafkaConsumer") -> "Taker":
    """Return what takes batches that a producer beside the consumer has written, instead of a fetch."""
    take: Taker = consumer._fetcher.take  # noqa: SLF001 - made by aiokafka, of the class above
    return take

"""Replace how aiokafka's consumer reads a fetch, so that a batch that cannot be read affects no other batch.

aiokafka raises on such a batch after it has moved the positions of other partitions, so their records are never
returned, and it raises again for ever. Here the contents of a fetch never raise: a record that stands for the batch
takes its place (`inferlane.contracts.kafka_record`) and is answered like any other.

Only this module, `fetch_loop`, `handed_batches`, `partition_records` and `recreated_topics` reach into aiokafka's
fetcher; the tests `test_fetching.py`, `test_fetch_loop.py` and `test_handed_batches.py` fail when that changes.
"""

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import consumer as consumer_module
from aiokafka.consumer import fetcher
from aiokafka.record import default_records, legacy_records
from aiokafka.record._crecords import default_records as c_default_records
from aiokafka.record._crecords import legacy_records as c_legacy_records

from inferlane.contracts.kafka_record import is_unreadable
from inferlane.runtime.kafka.arrivals import ArrivalListener, ArrivalListeners
from inferlane.runtime.kafka.batch_decoder import DECOMPRESSORS, Frames
from inferlane.runtime.kafka.fetch_loop import SHORTEST_WAIT_MS, wait_after
from inferlane.runtime.kafka.handed_batches import HandedFetcher
from inferlane.runtime.kafka.partition_records import LenientPartitionRecords
from inferlane.runtime.kafka.recreated_topics import start_over_past_end

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

# Keys and values that one call returns, beyond which it returns no further record. Too small makes many small batches
# of large records; too large lets compressed records fill the memory, and decoding them holds up the event loop.
_RETURNED_BYTES = 8 * 1024 * 1024
# On a broker that wakes a fetch, after a batch that was handed on: so long do records of others wait meanwhile. Shorter
# fetches what will be handed on.
_REST_WHEN_HANDED_MS = 50


def guard_fetches(*, batch_limit_bytes: int) -> None:
    """Make every consumer of this process read this way; `batch_limit_bytes` bounds a decompressed batch.

    aiokafka has no hook for this, so its modules' classes and codecs are replaced. Calling it again changes only the
    limit.
    """
    consumer_module.Fetcher = _Fetcher
    fetcher.FetchResult = _FetchResult
    fetcher.MemoryRecords = Frames
    fetcher.PartitionRecords = LenientPartitionRecords
    for name, inflate in DECOMPRESSORS.items():

        def decompress_within(raw: Any, inflate: Any = inflate) -> bytes:
            inflated: bytes = inflate(raw, batch_limit_bytes)
            return inflated

        for module in (default_records, legacy_records, c_default_records, c_legacy_records):
            if hasattr(module, name):
                setattr(module, name, decompress_within)


def has_failed(consumer: "AIOKafkaConsumer") -> bool:
    """Return whether the fetcher has ended with an error: the consumer would return nothing for ever, in silence."""
    failed: bool = consumer._fetcher.error_future.done()  # noqa: SLF001 - aiokafka hides it
    return failed


def set_fetch_wait(consumer: "AIOKafkaConsumer", wait_ms: int) -> None:
    """Set how long each empty fetch waits from now on: at the broker, or before the next fetch."""
    inner = consumer._fetcher  # noqa: SLF001 - no setter; read anew for each fetch
    if inner.wakes_fetches:
        inner._fetch_max_wait_ms = wait_ms  # noqa: SLF001 - as above
        return
    is_shorter, inner.rest_s = wait_ms / 1000 < inner.rest_s, wait_ms / 1000
    if is_shorter:
        # Records of producers without signals may have come during the long one.
        inner.arrivals.wake()


def rest_between_fetches(
    consumer: "AIOKafkaConsumer", arrivals: ArrivalListener | ArrivalListeners, *, wakes_fetches: bool
) -> None:
    """Let the broker hold no fetch any more; rest before the next one instead, until a signal or for the fetch wait.

    A broker that wakes a fetch holds it as before, and there is a short rest only after a batch that was handed on.
    Listeners of many topics hand on the batches that come with the signals.
    """
    inner = consumer._fetcher  # noqa: SLF001 - made by aiokafka, of the class below
    inner.arrivals, inner.wakes_fetches = arrivals, wakes_fetches
    if not wakes_fetches:
        inner.rest_s = inner._fetch_max_wait_ms / 1000  # noqa: SLF001 - as above
        inner._fetch_max_wait_ms = SHORTEST_WAIT_MS  # noqa: SLF001 - as above
    if isinstance(arrivals, ArrivalListeners):
        arrivals.take = inner.take


class _Fetcher(HandedFetcher):
    """Returns what was fetched, within a number of records and of bytes."""

    arrivals: ArrivalListener | ArrivalListeners | None = None
    wakes_fetches = True
    rest_s = _REST_WHEN_HANDED_MS / 1000
    _fetch_max_wait_ms: int  # read for each fetch

    async def _proc_fetch_request(self, assignment: Any, node_id: Any, request: Any) -> bool:
        """As aiokafka's, after a rest if the broker had no more the last time that it was asked."""
        if self.arrivals is not None:
            if (self.was_handed or not self.wakes_fetches) and _is_at_end(assignment, request):
                try:
                    await self.arrivals.wait(self.rest_s)
                except asyncio.CancelledError:
                    # As in aiokafka: the assignment has changed, or the consumer closes.
                    return False
            if self.is_outdated(assignment, request):
                return False
            self.arrivals.forget()
            self.was_handed = False
            if self.wakes_fetches and self._records:
                # Partitions that hold unread records are not asked for: not for longer than a rest.
                request._max_wait_ms = min(request._max_wait_ms, _REST_WHEN_HANDED_MS)  # noqa: SLF001 - no setter
        found: bool = await super()._proc_fetch_request(assignment, node_id, request)
        self.note_answer(assignment, request)
        if found:
            self.wake_caller()
        if not found and assignment.active:
            await start_over_past_end(self, assignment, request)
        if not self.wakes_fetches and (found or not self.is_outdated(assignment, request)):
            is_behind = not _is_at_end(assignment, request)
            self._fetch_max_wait_ms = wait_after(found=found, is_behind=is_behind, wait_ms=self._fetch_max_wait_ms)
        return found

    async def fetched_records(
        self,
        partitions: Collection[TopicPartition],
        timeout: float = 0,  # noqa: ASYNC109 - aiokafka's
        max_records: int | None = None,
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """As aiokafka's, but an error of one partition waits until what others hold was returned."""
        deadline_s = time.monotonic() + (timeout or 0)
        while True:
            # Records that are fetched during a rebalance may belong to another consumer after it.
            if self._subscriptions.reassignment_in_progress:
                await self._subscriptions.wait_for_assignment()
            # What holds no record may have made room for a batch that was handed.
            drained = self._drain(partitions, max_records) or self._drain(partitions, max_records)
            left_s = deadline_s - time.monotonic()
            if drained or left_s <= 0:
                return drained
            await self.wait_for_records(left_s)
            if self._closed:
                return {}

    def _drain(
        self, partitions: Collection[TopicPartition], max_records: int | None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        drained: dict[TopicPartition, list[ConsumerRecord]] = {}
        room_records, room_bytes = max_records, _RETURNED_BYTES
        for partition in list(self._records):
            if partitions and partition not in partitions:
                if not self._subscriptions.is_assigned(partition):
                    del self._records[partition]
                continue
            result = self._records[partition]
            if not isinstance(result, _FetchResult):
                if drained:
                    continue
                self._forget(partition)
                result.check_raise()
            records, size_bytes = self._drain_one(partition, result, room_records, room_bytes)
            if not records:
                continue
            drained[partition] = records
            room_bytes -= size_bytes
            if room_records is not None:
                room_records -= len(records)
            if room_records == 0 or room_bytes <= 0:
                break
        return drained

    def _drain_one(
        self, partition: TopicPartition, result: "_FetchResult", max_records: int | None, max_bytes: int
    ) -> tuple[list[ConsumerRecord], int]:
        if result.is_new and not self.goes_on(partition, result.first_batch):
            return [], 0
        result.is_new = False
        records, size_bytes = result.drain(max_records, max_bytes)
        if not result.has_more():
            self.note_end(partition, result.read_to)
            self._forget(partition)
        return records, size_bytes

    def _forget(self, partition: TopicPartition) -> None:
        """Go on with what was handed for the partition, or let it be fetched again."""
        del self._records[partition]
        if not self._bring(partition):
            self._notify(self._wait_consume_future)


def _is_at_end(assignment: Any, request: Any) -> bool:
    """Return whether each position that is asked for was the end of its partition when the broker last told it."""
    for topic, parts in request.topics:
        for number, position, _ in parts:
            end: int | None = assignment.state_value(TopicPartition(topic, number)).lso
            if end is None or position < end:
                return False
    return True


class _FetchResult(fetcher.FetchResult):  # type: ignore[misc]  # as above
    """The records of one partition in one fetch, decoded as they are drained."""

    _partition_records: Any
    is_new = True
    read_to: int | None = None

    @property
    def first_batch(self) -> memoryview:
        """The bytes from the first batch on; only while it is new."""
        raw: memoryview = self._partition_records.raw
        return raw

    def drain(self, max_records: int | None, max_bytes: int) -> tuple[list[ConsumerRecord], int]:
        """Return the next records and what they hold in bytes, the first one however large it is."""
        records: list[ConsumerRecord] = []
        size_bytes = 0
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return records, size_bytes
        for record in self._partition_records:
            records.append(record)
            # -1 stands for none; the error in the sum is negligible.
            size_bytes += record.serialized_key_size + record.serialized_value_size
            if is_unreadable(record.headers):
                # The failed read may have taken as long as reading a large batch.
                size_bytes = max_bytes
            if len(records) == max_records or size_bytes >= max_bytes:
                self._update_position()
                return records, size_bytes
        self._update_position()
        self.read_to, self._partition_records = self._partition_records.read_to, None
        return records, size_bytes

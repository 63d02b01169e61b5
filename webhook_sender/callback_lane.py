"""Read one topic of callbacks: send those that are due, leave the others in the topic until they are."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from inferlane.contracts.callbacks import read_callback
from inferlane.contracts.naming import Lane
from inferlane.errors import DecodeError
from inferlane.runtime.kafka.consumer import FetchedBatch, LaneConsumer
from inferlane.runtime.service import StoppedEarlyError, unless_stopped
from webhook_sender.receivers import MAX_CALLS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from aiokafka import ConsumerRecord

    from inferlane.contracts.kafka_record import KafkaRecord
    from inferlane.contracts.naming import Names
    from inferlane.runtime.kafka.lag import ConsumerHealth
    from inferlane.runtime.retry import Clock, Retrier
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

_FETCH_WAIT_S = 0.5
# Records of one batch, which is committed when all of them are done. More delays the commit behind a slow receiver,
# fewer makes more commits.
_MAX_RECORDS = 32
# Batches at work at once: a receiver that does not answer holds one of them, for the time of a call.
_IN_FLIGHT = MAX_CALLS
# The most bytes of the batches in work, so that large results do not fill the memory; and what a callback takes there
# besides its record.
_MAX_HELD_BYTES = 64 * 1024 * 1024
_CALL_BYTES = 16 * 1024
# The group removes a consumer that does not fetch for ten minutes.
_LONGEST_REST_S = 30.0


class DueConsumer(LaneConsumer):
    """A consumer that can leave records of a batch for a later fetch."""

    def keep(self, batch: FetchedBatch, records: "Sequence[ConsumerRecord]", left: "Mapping[int, int]") -> FetchedBatch:
        """Return the batch of these records alone; `left` are the offsets, by partition, of the first that are left.

        To be called before the next fetch.
        """
        next_offsets = dict(batch.ticket.next_offsets)
        for number, offset in left.items():
            partition = TopicPartition(self._topic, number)
            next_offsets[partition] = offset
            self._fetched[partition] = offset
            # Revoked meanwhile: another consumer reads it.
            with suppress(IllegalStateError):
                self._running().seek(partition, offset)
        batch.ticket.next_offsets = next_offsets
        return FetchedBatch(records, batch.ticket)


def due_s(record: "KafkaRecord") -> float:
    """Return when the callback is to be sent, in seconds since the epoch; an unreadable record is due at once."""
    try:
        return read_callback(record).due_s
    except DecodeError:
        return 0.0


class CallbackLane:
    """One topic of callbacks from start to stop."""

    def __init__(  # noqa: PLR0913 - its topic, and what it works with
        self,
        kafka: "KafkaSettings",
        names: "Names",
        *,
        topic: str,
        longest_wait_s: float,
        work: "Callable[[KafkaRecord], Coroutine[None, None, None]]",
        retrier: "Retrier",
        clock: "Clock",
    ) -> None:
        """A callback waits at most `longest_wait_s` here, whatever it says: those behind it wait for it."""
        self._topic = topic
        self._longest_wait_s = longest_wait_s
        # By partition, the first callback that is not due, and since when it is waited for.
        self._waited_for: dict[int, tuple[int, float]] = {}
        self._work = work
        self._retrier = retrier
        self._clock = clock
        self._is_resting = False
        self._held_bytes = 0
        self._has_room = asyncio.Event()
        # Retries need no precision of milliseconds.
        lane = Lane.REQUESTS if topic == names.callbacks else Lane.BULK
        self.consumer = DueConsumer(
            kafka,
            topic=topic,
            group=names.webhooks_group(topic),
            lane=lane,
            is_blocked=lambda: self._is_resting or retrier.is_retrying,
            in_flight=_IN_FLIGHT,
        )

    def health(self) -> "ConsumerHealth":
        """Return the state of its consumer."""
        return self.consumer.health()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish and commit the batches in work, and return."""
        try:
            start = self._retrier.until_done(self.consumer.start, stage=f"join:{self._topic}")
            await unless_stopped(start, stop)
            async with asyncio.TaskGroup() as works:
                await self._run(stop, works)
        except StoppedEarlyError:
            return
        finally:
            await self.consumer.close()

    async def _run(self, stop: asyncio.Event, works: asyncio.TaskGroup) -> None:
        free = asyncio.Semaphore(_IN_FLIGHT)
        while not stop.is_set():
            await free.acquire()
            batch = await self._retrier.until_done(lambda: self._fetch(stop), stage=f"fetch:{self._topic}")
            if batch is None:
                free.release()
                continue
            batch, rest_s = self._due(batch)
            works.create_task(self._finish(batch, free))
            await self._rest(rest_s, stop)
            await self._wait_for_room()

    async def _fetch(self, stop: asyncio.Event) -> FetchedBatch | None:
        # Checked at each retry: an unavailable broker must not keep a process that is told to stop.
        if stop.is_set():
            return None
        return await self.consumer.fetch(max_records=_MAX_RECORDS, timeout_s=_FETCH_WAIT_S)

    def _due(self, batch: FetchedBatch) -> tuple[FetchedBatch, float]:
        """Return the due callbacks of the batch, and how long the first other one has to wait."""
        now_s = self._clock.now_s()
        kept: list[ConsumerRecord] = []
        left: dict[int, int] = {}
        rest_s = 0.0
        for record in batch.records:
            if record.partition in left:
                continue
            wait_s = min(due_s(record) - now_s, self._most_wait_s(record))
            if wait_s <= 0:
                kept.append(record)
            else:
                left[record.partition] = record.offset
                rest_s = min(rest_s or wait_s, wait_s)
        return (self.consumer.keep(batch, kept, left), rest_s) if left else (batch, 0.0)

    def _most_wait_s(self, record: "KafkaRecord") -> float:
        """Return how much longer the record may wait, by a clock that nobody sets."""
        now_s = self._clock.monotonic_s()
        waited_for, since_s = self._waited_for.get(record.partition, (-1, now_s))
        if waited_for != record.offset:
            since_s = now_s
            self._waited_for[record.partition] = record.offset, since_s
        return since_s + self._longest_wait_s - now_s

    async def _rest(self, seconds: float, stop: asyncio.Event) -> None:
        if seconds <= 0:
            return
        self._is_resting = True
        try:
            async with asyncio.timeout(min(seconds, _LONGEST_REST_S)):
                await stop.wait()
        except TimeoutError:
            return
        finally:
            self._is_resting = False

    async def _wait_for_room(self) -> None:
        while self._held_bytes > _MAX_HELD_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    async def _finish(self, batch: FetchedBatch, free: asyncio.Semaphore) -> None:
        held_bytes = sum(_CALL_BYTES + len(record.value or b"") for record in batch.records)
        self._held_bytes += held_bytes
        try:
            async with asyncio.TaskGroup() as calls:
                for record in batch.records:
                    calls.create_task(self._work(record))
        finally:
            self._held_bytes -= held_bytes
            self._has_room.set()
            free.release()
        self.consumer.finish(batch)

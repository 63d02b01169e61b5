"""The state path: outcome summaries to windows, windows to the store."""

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from mode.threads import WorkerThread

from inferlane.contracts.dead_letters import Cause, stack_of
from inferlane.contracts.outcomes import decode_summary
from inferlane.contracts.unreadable import refuse_unreadable
from inferlane.errors import DecodeError, InferlaneError
from inferlane.runtime.dead_letter_writing import DeadLetterWriter
from inferlane.runtime.kafka.fetching import guard_fetches
from inferlane.runtime.kafka.reading import read_since
from inferlane.runtime.metrics.consuming import DEAD_LETTERS
from inferlane.runtime.metrics.declaring import NONE, UNKNOWN
from inferlane.runtime.topics import batch_limit_bytes
from router.windows import OutcomeWindows, Verdict

if TYPE_CHECKING:
    from inferlane.contracts.record import KafkaRecord
    from inferlane.runtime.config import Settings
    from inferlane.runtime.kafka.producing import BatchProducer
    from inferlane.runtime.redis.versions import WindowStore
    from inferlane.runtime.retry import Clock, Retrier

log = structlog.get_logger(__name__)

# Slots of one round trip: 1 to 12 KB each.
_SLOTS_A_WRITE = 100
# Records are stamped after the time that they speak of, by clocks that may differ.
_REPLAY_SLACK_S = 60.0


class StatePath:
    """Takes records one by one and publishes what changed. One event loop."""

    def __init__(
        self,
        settings: "Settings",
        *,
        store: "WindowStore",
        producer: "BatchProducer",
        retrier: "Retrier",
        clock: "Clock",
    ) -> None:
        self._settings = settings
        self._store = store
        self._dead_letters = DeadLetterWriter(
            producer, retrier, topic=settings.names.dead_letters, limit_bytes=settings.max_body_bytes
        )
        self._clock = clock
        self._windows = OutcomeWindows(slot_s=settings.outcome_slot_s, window_s=settings.outcome_window_s)
        self._publisher = uuid4().hex
        self._to_rebuild: frozenset[int] | None = None
        self._is_assigned = False

    @property
    def is_current(self) -> bool:
        """Whether the windows hold all that came before this router, and go on from there."""
        return self._is_assigned and self._to_rebuild is None

    def assign(self, partitions: Collection[int]) -> None:
        """Note what is ours now. Somebody else may have read it meanwhile, so nothing is published before a replay."""
        self._to_rebuild = frozenset(partitions)
        self._is_assigned = True

    async def take(self, record: "KafkaRecord") -> None:
        """Add one record to the windows, or send it to the dead letters; returns when either is done."""
        try:
            refuse_unreadable(record.topic, record.partition, record.offset, record.headers)
            summary = decode_summary(record.value or b"")
        except DecodeError as error:
            await self._give_up(record, error)
            return
        verdict = self._windows.apply(summary, now_s=self._clock.now_s())
        if verdict in (Verdict.AHEAD, Verdict.FULL):
            log.warning(
                "summary_refused",
                reason=verdict.value,
                model=summary.model,
                version=summary.version,
                worker_id=summary.worker_id,
                to_s=summary.to_s,
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Publish every `outcome_interval_s` until `stop` is set, and once more then."""
        is_last = False
        while not is_last:
            is_last = await _is_set(stop, within_s=self._settings.outcome_interval_s)
            try:
                await self._rebuild()
                await self._publish()
            except InferlaneError as error:
                log.warning("windows_not_published", error=str(error))

    async def _rebuild(self) -> None:
        partitions = self._to_rebuild
        if partitions is None:
            return
        since_s = self._clock.now_s() - self._settings.outcome_window_s - self._settings.outcome_slot_s
        read = 0
        if partitions:
            ours = [TopicPartition(self._settings.names.outcomes, partition) for partition in sorted(partitions)]
            async with aclosing(read_since(self._settings, ours, since_s=since_s - _REPLAY_SLACK_S)) as batches:
                async for records in batches:
                    read += len(records)
                    self._apply_again(records)
        if self._to_rebuild is partitions:
            self._to_rebuild = None
        log.info("windows_rebuilt", partitions=sorted(partitions), records=read)

    def _apply_again(self, records: "Collection[KafkaRecord]") -> None:
        for record in records:
            try:
                summary = decode_summary(record.value or b"")
            except DecodeError:
                # The agent makes a dead letter of it, or has.
                continue
            self._windows.apply(summary, now_s=self._clock.now_s())

    async def _publish(self) -> None:
        if not self.is_current:
            return
        self._windows.drop_old(now_s=self._clock.now_s())
        while slots := self._windows.changed(_SLOTS_A_WRITE):
            is_known = await self._store.put(slots, publisher=self._publisher)
            if not is_known:
                self._windows.mark_all_changed()
            self._windows.mark_published(slots)

    async def _give_up(self, record: "KafkaRecord", error: DecodeError) -> None:
        cause = Cause(reason=error.code, detail=str(error), attempts=1, stack=stack_of(error))
        await self._dead_letters.write([(record, cause)])
        DEAD_LETTERS.labels(UNKNOWN, UNKNOWN, NONE, error.code).inc()
        log.warning("summary_undecodable", partition=record.partition, offset=record.offset, error=str(error))


async def _is_set(stop: asyncio.Event, *, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await stop.wait()
    except TimeoutError:
        return False


# Leaving the group takes a round trip. The event loop stands still meanwhile, so only after the data path is drained.
_JOIN_S = 3.0


class DaemonThread(WorkerThread):
    """A consumer thread that dies with the process: one that waits for a broker that is gone must not keep it alive."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.daemon = True

    def stop(self) -> None:
        """Wait for the thread, but not for ever."""
        self.join(_JOIN_S)


def transport_class(settings: "Settings", *, fetch_max_wait_ms: int) -> type[Transport]:
    """A transport whose consumers read as ours do, and let the broker hold an empty fetch for so long."""

    class _Thread(AIOKafkaConsumerThread):
        Worker = DaemonThread

        def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
            guard_fetches(batch_limit_bytes=batch_limit_bytes(settings))
            consumer = super()._create_worker_consumer(transport)
            # Both are read by the consumer's start(). Faust says 1,500 ms, and commits only what it was given.
            consumer._fetch_max_wait_ms = fetch_max_wait_ms  # noqa: SLF001 - no setter
            consumer._isolation_level = "read_committed"  # noqa: SLF001 - no setter
            return consumer

    class _Consumer(Consumer):
        def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
            return _Thread(self, loop=self.loop, beacon=self.beacon)

    class _Transport(Transport):
        Consumer = _Consumer

    return _Transport

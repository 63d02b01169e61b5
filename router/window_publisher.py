"""Publish outcome windows: summaries from the outcomes topic, windows to the store."""

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from aiokafka import TopicPartition

from inferlane.contracts.dead_letters import Cause, stack_of
from inferlane.contracts.kafka_record import refuse_unreadable
from inferlane.contracts.outcomes import decode_summary
from inferlane.errors import DecodeError, InferlaneError
from inferlane.runtime.kafka.record_writer import DeadLetterWriter
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.metrics.consumer_metrics import DEAD_LETTERS
from inferlane.runtime.metrics.instruments import NONE, UNKNOWN
from router.version_windows import SummaryDecision, VersionWindows

if TYPE_CHECKING:
    from inferlane.contracts.kafka_record import KafkaRecord
    from inferlane.contracts.naming import Names
    from inferlane.runtime.kafka.producer import BatchProducer
    from inferlane.runtime.redis.window_store import WindowStore
    from inferlane.runtime.retry import Clock, Retrier
    from inferlane.runtime.service_settings import OutcomeSettings
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# Slots per round trip to the store; a slot has 1 to 12 KB.
_SLOTS_A_WRITE = 100
# A record is timestamped after the interval that it summarises, and clocks differ between machines.
_REPLAY_SLACK_S = 60.0


class WindowPublisher:
    """Adds outcome summaries to the windows and publishes the slots that changed. Used from one event loop."""

    def __init__(  # noqa: PLR0913 - parts of the settings, and what it works with
        self,
        outcomes: "OutcomeSettings",
        kafka: "KafkaSettings",
        names: "Names",
        *,
        store: "WindowStore",
        producer: "BatchProducer",
        retrier: "Retrier",
        clock: "Clock",
    ) -> None:
        self._outcomes = outcomes
        self._kafka = kafka
        self._names = names
        self._store = store
        self._dead_letters = DeadLetterWriter(
            producer, retrier, topic=names.dead_letters, limit_bytes=kafka.max_body_bytes
        )
        self._clock = clock
        self._windows = VersionWindows(slot_s=outcomes.slot_s, window_s=outcomes.window_s)
        self._publisher = uuid4().hex
        self._to_rebuild: frozenset[int] | None = None
        self._is_assigned = False
        self._owned: frozenset[int] = frozenset()
        self._assignments = 0
        # Set while windows wait to be rebuilt.
        self._assigned = asyncio.Event()

    @property
    def is_current(self) -> bool:
        """Whether the windows are rebuilt from the topic and kept up to date since."""
        return self._is_assigned and self._to_rebuild is None

    @property
    def windows(self) -> VersionWindows:
        """The windows that this router has; complete only while it `owns_outcomes`."""
        return self._windows

    @property
    def owns_outcomes(self) -> bool:
        """Whether this router reads the outcomes and has windows that are up to date: one router of the group does."""
        return self.is_current and bool(self._owned)

    @property
    def assignments(self) -> int:
        """How often partitions were assigned: what was owned under another number may have been another's since."""
        return self._assignments

    def assign(self, partitions: Collection[int]) -> None:
        """Note the assigned partitions. Another router may have read them, so publish only after a rebuild."""
        self._to_rebuild = self._owned = frozenset(partitions)
        self._is_assigned = True
        self._assignments += 1
        self._assigned.set()

    async def add(self, record: "KafkaRecord") -> None:
        """Add one record to the windows, or dead-letter it if it cannot be decoded."""
        try:
            refuse_unreadable(record.topic, record.partition, record.offset, record.headers)
            summary = decode_summary(record.value or b"")
        except DecodeError as error:
            await self._dead_letter(record, error)
            return
        decision = self._windows.apply(summary, now_s=self._clock.now_s())
        if decision in (SummaryDecision.AHEAD, SummaryDecision.FULL):
            log.warning(
                "summary_refused",
                reason=decision.value,
                model=summary.model,
                version=summary.version,
                worker_id=summary.worker_id,
                to_s=summary.to_s,
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Publish every `outcome_interval_s`, and once partitions are assigned, until `stop` is set; then once more."""
        while True:
            is_last = await self._is_last(stop)
            self._assigned.clear()
            try:
                await self._rebuild()
                await self._publish()
            except InferlaneError as error:
                log.warning("windows_not_published", error=str(error))
            if is_last:
                return

    async def _is_last(self, stop: asyncio.Event) -> bool:
        """Wait for the next time to publish; whether it is the last one."""
        ways = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._assigned.wait())}
        try:
            await asyncio.wait(ways, timeout=self._outcomes.interval_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
        return stop.is_set()

    async def _rebuild(self) -> None:
        partitions = self._to_rebuild
        if partitions is None:
            return
        since_s = self._clock.now_s() - self._outcomes.window_s - self._outcomes.slot_s
        read = 0
        if partitions:
            assigned = [TopicPartition(self._names.outcomes, partition) for partition in sorted(partitions)]
            async with aclosing(read_since(self._kafka, assigned, since_s=since_s - _REPLAY_SLACK_S)) as batches:
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
                # The agent dead-letters this record.
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

    async def _dead_letter(self, record: "KafkaRecord", error: DecodeError) -> None:
        cause = Cause(reason=error.code, detail=str(error), attempts=1, stack=stack_of(error))
        await self._dead_letters.write([(record, cause)])
        DEAD_LETTERS.labels(UNKNOWN, UNKNOWN, NONE, error.code).inc()
        log.warning("summary_undecodable", partition=record.partition, offset=record.offset, error=str(error))

"""Send recorded requests through two versions as shadow copies, at a bounded rate, and wait for the comparison."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import read_unidentified
from inferlane.contracts.shadow import Comparison, ShadowReport, recorded_copy
from inferlane.errors import DecodeError, InferlaneError
from inferlane.runtime.kafka.clients import partitions_of
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.shadow_results import ShadowResults
from inferlane.runtime.retry import SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import ConsumerRecord

    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.settings import KafkaSettings, StackSettings

# Bulk records that may wait for either version: a slow version slows the replay, and bulk work of others is not far
# behind it. More is a longer wait for them.
_MAX_LAG_RECORDS = 500
_LOOK_S = 1.0
# A copy that no worker reached by then is dropped.
_COPY_LIVES_S = 600.0
# The comparison is over when nothing came for so long.
_QUIET_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which recorded requests are sent: since when, and a share of them by the digest of their ids."""

    since_s: float
    sample: float = 1.0

    def takes(self, request_id: str) -> bool:
        """Return whether a request is in the sample; the same ones each time."""
        digest = blake2b(request_id.encode(), digest_size=8, person=b"replay").digest()
        return int.from_bytes(digest, "big") < self.sample * 2**64


@dataclass(slots=True, kw_only=True)
class ReplayProgress:
    """How far a replay is. `oldest_s` is the time of the first record that was read."""

    read: int = 0
    sent: int = 0
    unreadable: int = 0
    oldest_s: float | None = None


class RecordedRequests:
    """The requests of one model that the request topics still hold. Used from one event loop."""

    def __init__(
        self,
        kafka: "KafkaSettings",
        stack: "StackSettings",
        comparison: Comparison,
        *,
        producer: BatchProducer,
        results: ShadowResults,
        clock: "Clock",
    ) -> None:
        self._kafka = kafka
        self._stack = stack
        self._comparison = comparison
        self._producer = producer
        self._results = results
        self._clock = clock

    async def send(
        self, selection: Selection, *, rate_per_s: float, on_progress: Callable[[ReplayProgress], None]
    ) -> ReplayProgress:
        """Send a copy of each selected request, at most so many a second and while neither version is behind.

        Raises:
            UnavailableError: the broker does not answer.
        """
        progress, started_s = ReplayProgress(), self._clock.monotonic_s()
        looked_s = -float("inf")
        reader = BacklogReader(self._kafka)
        try:
            async for records in self._recorded(selection.since_s):
                for copies in _in_batches(self._copies(records, selection, progress), rate_per_s):
                    ahead_s = progress.sent / rate_per_s - (self._clock.monotonic_s() - started_s)
                    await asyncio.sleep(max(0.0, ahead_s))
                    if self._clock.monotonic_s() - looked_s >= _LOOK_S:
                        looked_s = await self._wait_for_room(reader)
                    await self._producer.send(copies)
                    progress.sent += len(copies)
                    on_progress(progress)
                on_progress(progress)
        finally:
            await reader.close()
        return progress

    async def compared(self, sent: int, *, on_report: Callable[[ShadowReport], None]) -> ShadowReport:
        """Return the comparison when every copy is accounted for, or nothing has come for a while.

        Raises:
            UnavailableError: the store does not answer.
        """
        names, quiet_since_s, seen = self._comparison, self._clock.monotonic_s(), -1
        while True:
            report = await self._results.read(names.model, names.shadow, names.run)
            on_report(report)
            if report.copies != seen:
                seen, quiet_since_s = report.copies, self._clock.monotonic_s()
            if report.copies >= sent or self._clock.monotonic_s() - quiet_since_s > _QUIET_S:
                return report
            await asyncio.sleep(_LOOK_S / 4)

    async def _recorded(self, since_s: float) -> AsyncGenerator["Sequence[ConsumerRecord]", None]:
        for topic in self._stack.names.ingress.values():
            partitions = await partitions_of(self._kafka, topic)
            async with aclosing(read_since(self._kafka, partitions, since_s=since_s)) as batches:
                async for records in batches:
                    yield records

    def _copies(
        self, records: "Sequence[ConsumerRecord]", selection: Selection, progress: ReplayProgress
    ) -> "list[OutRecord]":
        copies = []
        for record in records:
            progress.read += 1
            oldest_s = record.timestamp / 1000
            progress.oldest_s = oldest_s if progress.oldest_s is None else min(progress.oldest_s, oldest_s)
            try:
                headers = read_unidentified(record)
            except DecodeError:
                progress.unreadable += 1
                continue
            is_ours = (headers.model or self._stack.default_model) == self._comparison.model
            if is_ours and selection.takes(headers.request_id):
                deadline_s = self._clock.now_s() + _COPY_LIVES_S
                copies.append(
                    recorded_copy(record, headers, self._comparison, names=self._stack.names, deadline_s=deadline_s)
                )
        return copies

    async def _wait_for_room(self, reader: BacklogReader) -> float:
        """Return the time when few enough records wait for both versions."""
        names, model = self._stack.names, self._comparison.model
        pools = [
            Subscription(names.work_topic(model, version, Lane.BULK), names.worker_group(model, version))
            for version in (self._comparison.stable, self._comparison.shadow)
        ]
        while True:
            found = await reader.read(pools)
            if len(found) < len(set(pools)):
                raise InferlaneError(f"a topic of {model} is missing; `inferlane topics create` makes it")
            if all(position.lag_records < _MAX_LAG_RECORDS for position in found.values()):
                return self._clock.monotonic_s()
            await asyncio.sleep(_LOOK_S)


def _in_batches(copies: "list[OutRecord]", rate_per_s: float) -> "list[list[OutRecord]]":
    """Cut into what may be sent in a tenth of a second."""
    size = max(1, int(rate_per_s / 10))
    return [copies[start : start + size] for start in range(0, len(copies), size)]


@asynccontextmanager
async def open_recorded(
    kafka: "KafkaSettings", stack: "StackSettings", redis_url: str, comparison: Comparison
) -> AsyncGenerator[RecordedRequests, None]:
    """Open the recorded requests with their own connections for the duration of the block.

    Raises:
        UnavailableError: the broker does not answer.
    """
    producer = BatchProducer(kafka)
    async with connect(redis_url) as redis:
        results = ShadowResults(redis, redis_url=redis_url, names=stack.names)
        await producer.start()
        try:
            yield RecordedRequests(kafka, stack, comparison, producer=producer, results=results, clock=SystemClock())
        finally:
            await producer.close()

"""The consumer of one lane of one group: it tracks fetched records and commits finished ones."""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from inferlane.contracts.naming import Lane
from inferlane.errors import ConsumerBrokenError, FatalRecordError
from inferlane.runtime.kafka.arrivals import ArrivalListener
from inferlane.runtime.kafka.assigned_positions import known_backlog, positions
from inferlane.runtime.kafka.attempts import AttemptLog, Attempts
from inferlane.runtime.kafka.clients import broker_errors, existing_only, make_consumer
from inferlane.runtime.kafka.fetch_wait import FetchWait, take_what_is_handed
from inferlane.runtime.kafka.fetcher import has_failed, set_fetch_wait
from inferlane.runtime.kafka.lag import ConsumerHealth, ConsumerState, Progress, watch_progress
from inferlane.runtime.kafka.offsets import OffsetTracker, Ticket
from inferlane.runtime.metrics.consumer_metrics import CONSUMER_LAG, CONSUMER_STILL, REBALANCES

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# Longer than a healthy broker takes; a rebalance waits for a commit that is under way.
_CLOSE_TIMEOUT_S = _COMMIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class FetchedBatch:
    """Records of one fetch; hand `ticket` to `finish` when each has a durable result."""

    records: Sequence[ConsumerRecord]
    ticket: Ticket[TopicPartition]
    # A suspect record, at which processes died: call `begin_alone` first, and run nothing beside it.
    is_suspect: bool = False


class LaneConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Fetches records of a topic and commits them once they are finished, at most every `commit_interval_s`.

    A lane has a consumer of its own: aiokafka does not fetch from a broker while it holds unread records of one of its
    partitions, so a bulk backlog would stall waiting clients.
    """

    def __init__(  # noqa: PLR0913 - what it reads, and for whom
        self,
        kafka: "KafkaSettings",
        *,
        topic: str,
        group: str,
        lane: Lane = Lane.REQUESTS,
        is_blocked: Callable[[], bool] = lambda: False,
        attempt_log: AttemptLog | None = None,
        in_flight: int = 1,
    ) -> None:
        """`is_blocked`: a lack of progress has an outside cause. `in_flight`: the most batches in work at once."""
        self._kafka = kafka
        self._is_blocked = is_blocked
        self._progress = Progress(stuck_after_s=kafka.stuck_after_s)
        self._topic = topic
        self._group = group
        self._fetch_wait = FetchWait.for_lane(kafka, lane)
        self._arrivals = None if kafka.arrivals_dir is None else ArrivalListener(kafka.arrivals_dir, topic)
        self._attempts = Attempts(attempt_log, topic=topic, max_deaths=kafka.max_deaths)
        self._in_flight = in_flight
        self._tracker: OffsetTracker[TopicPartition] = OffsetTracker()
        self._fetched: dict[TopicPartition, int] = {}  # positions as of the last fetch
        self.left = 0  # records that the last fetch left, as far as the broker had told
        self._idle = asyncio.Event()
        self._idle.set()
        self._has_finished = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        # One commit at a time: a delayed one must not be sent after the partitions were revoked.
        self._committing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._assigned = asyncio.Event()
        self._last_record_s = time.monotonic()
        self._rebalances = REBALANCES.labels(topic)
        CONSUMER_LAG.labels(topic).set_function(lambda: self.health().lag_records)
        CONSUMER_STILL.labels(topic).set_function(lambda: self.health().still_s)

    async def start(self) -> None:
        """Join the group.

        Raises:
            UnavailableError: the broker does not answer.
        """
        consumer = make_consumer(self._kafka, group=self._group, fetch_max_wait_ms=self._fetch_wait.busy_ms)
        try:
            with broker_errors(self._kafka.bootstrap_servers):
                await consumer.start()
                consumer.subscribe([self._topic], listener=self)
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer
        if self._arrivals is not None:
            take_what_is_handed(consumer, self._arrivals, wakes_fetches=self._kafka.wakes_fetches)
        watch = watch_progress(
            consumer, self._progress, stuck_after_s=self._kafka.stuck_after_s, is_blocked=self._is_blocked
        )
        self._tasks = (
            asyncio.create_task(self._commit_for_ever(), name=f"commit:{self._topic}"),
            asyncio.create_task(watch, name=f"watch:{self._topic}"),
        )

    @property
    def has_joined(self) -> bool:
        """Whether the group has assigned partitions to this consumer (perhaps none)."""
        return self._assigned.is_set()

    @property
    def is_hurried(self) -> bool:
        """Whether a process died here a short while ago."""
        return self._attempts.is_hurried

    def health(self) -> ConsumerHealth:
        """Its lag and whether it makes progress."""
        if not self.has_joined:
            return ConsumerHealth(state=ConsumerState.JOINING, lag_records=0, still_s=0.0)
        return self._progress.health(now_s=time.monotonic())

    async def fetch(self, *, max_records: int, timeout_s: float) -> FetchedBatch | None:
        """Return the next records, at most `max_records`; wait up to `timeout_s` seconds for the first one.

        Raises:
            UnavailableError: the broker refuses to serve us now.
            ConsumerBrokenError: this consumer will never fetch again; the process must be replaced.
        """
        consumer = self._running()
        if self._attempts.careful:
            return await self._fetch_suspect(consumer, timeout_s=timeout_s)
        with broker_errors(self._kafka.bootstrap_servers):
            fetched = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        self._rest_when_idle(consumer, found=bool(fetched))
        if fetched:
            self._idle.clear()
            await self._note_attempts(consumer, fetched, max_records=max_records)
        batch = FetchedBatch([record for records in fetched.values() for record in records], self._begin(consumer))
        self.left = known_backlog(consumer)
        if not fetched:
            # No records, or offsets without one: these are committed too, or they would stay lag for ever.
            self.finish(batch)
            return None
        return batch

    async def _note_attempts(
        self, consumer: "AIOKafkaConsumer", fetched: dict[TopicPartition, list[ConsumerRecord]], *, max_records: int
    ) -> None:
        """Note the offsets at which work begins; records of partitions with suspects are not returned yet."""
        firsts = {partition.partition: records[0].offset for partition, records in fetched.items()}
        await self._attempts.begin(firsts, window=max_records * self._in_flight)
        for partition in [partition for partition in fetched if partition.partition in self._attempts.careful]:
            # Revoked meanwhile: another consumer reads it.
            with suppress(IllegalStateError):
                consumer.seek(partition, fetched.pop(partition)[0].offset)

    async def _fetch_suspect(self, consumer: "AIOKafkaConsumer", *, timeout_s: float) -> FetchedBatch | None:
        """Fetch one record of a partition on which processes died, or leave it where the suspicion ends."""
        number, attempt = next(iter(self._attempts.careful.items()))
        partition = TopicPartition(self._topic, number)
        with broker_errors(self._kafka.bootstrap_servers):
            fetched = await consumer.getmany(partition, timeout_ms=int(timeout_s * 1000), max_records=1)
            if not fetched:
                if await consumer.position(partition) >= (consumer.last_stable_offset(partition) or math.inf):
                    await self._leave(number)
                return None
        (record,) = fetched[partition]
        if record.offset >= attempt.careful_until:
            with suppress(IllegalStateError):  # as in `_note_attempts`
                consumer.seek(partition, record.offset)
            await self._leave(number)
            return None
        self._idle.clear()
        return FetchedBatch([record], self._begin(consumer), is_suspect=True)

    async def _leave(self, partition: int) -> None:
        await self._commit()  # or it would be met again with nothing noted of it
        await self._attempts.leave(partition)

    async def begin_alone(self, batch: FetchedBatch) -> FatalRecordError | None:
        """Note that work on a suspect record begins; return the error to end it with if it has killed before.

        Raises:
            UnavailableError: that cannot be noted now; do not work on the record.
        """
        (record,) = batch.records
        await self._commit()
        return await self._attempts.begin_alone(record.partition, record.offset)

    def _begin(self, consumer: "AIOKafkaConsumer") -> Ticket[TopicPartition]:
        """Note that everything before the positions was fetched, of partitions whose position moved."""
        moved = {partition: at for partition, at in positions(consumer).items() if self._fetched.get(partition) != at}
        if any(at < self._fetched.get(partition, 0) for partition, at in moved.items()):
            # The broker lost its data, or the topic was recreated.
            self._progress.start_over()
        self._fetched.update(moved)
        return self._tracker.begin(moved)

    def _running(self) -> "AIOKafkaConsumer":
        """Return the consumer; raise if one of its tasks has ended: it would silently return nothing for ever."""
        if self._consumer is None:
            raise ConsumerBrokenError(f"the consumer of {self._topic} was not started")
        if any(task.done() for task in self._tasks) or has_failed(self._consumer):
            raise ConsumerBrokenError(f"a task of the consumer of {self._topic} has ended; restart the process")
        return self._consumer

    def _rest_when_idle(self, consumer: "AIOKafkaConsumer", *, found: bool) -> None:
        now_s = time.monotonic()
        if found:
            self._last_record_s = now_s
        set_fetch_wait(consumer, self._fetch_wait.after(now_s - self._last_record_s))

    def finish(self, batch: FetchedBatch) -> None:
        """Note that every record of `batch` has a durable result; the offsets are committed soon."""
        self._tracker.finish(batch.ticket)
        if self._tracker.has_committable:
            self._has_finished.set()
        if self._tracker.is_idle:
            self._idle.set()

    async def close(self) -> None:
        """Commit finished work and leave the group; unfinished records are redelivered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._arrivals is not None:
            self._arrivals.close()
        if self._consumer is None:
            return
        # A broker that is down must not keep the process from ending: uncommitted records are redelivered.
        for step in (self._commit, self._consumer.stop):
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await step()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Finish and commit before the next owner reads on from our commit."""
        try:
            async with asyncio.timeout(self._kafka.drain_deadline_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning(
                "revoked_with_work_unfinished", topic=self._topic, drain_deadline_s=self._kafka.drain_deadline_s
            )
        await self._commit()
        self._tracker.forget()
        self._attempts.start_over()
        self._fetched.clear()
        self._idle.set()
        if revoked:
            log.info("partitions_revoked", topic=self._topic, partitions=sorted(p.partition for p in revoked))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note that the group has assigned partitions."""
        self._progress.start_over()
        self._assigned.set()
        self._rebalances.inc()
        log.info("partitions_assigned", topic=self._topic, partitions=sorted(p.partition for p in assigned))

    async def _commit_for_ever(self) -> None:
        while True:
            await self._has_finished.wait()
            await asyncio.sleep(0.0 if self._attempts.is_hurried else self._kafka.commit_interval_s)
            self._has_finished.clear()
            await self._commit()

    async def _commit(self) -> None:
        async with self._committing:
            offsets = self._tracker.take_committable()
            if offsets and self._consumer is not None:
                await self._commit_offsets(self._consumer, offsets)

    async def _commit_offsets(self, consumer: "AIOKafkaConsumer", offsets: dict[TopicPartition, int]) -> None:
        if not (offsets := existing_only(consumer, self._topic, offsets)):
            return
        try:
            # aiokafka itself retries for ever while a partition does not exist.
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await consumer.commit(offsets)
            for partition, next_offset in offsets.items():
                self._progress.note_done(partition.partition, next_offset)
        except (CommitFailedError, IllegalStateError) as error:
            # Another consumer owns the partition now and reads on from the last commit; results are idempotent.
            log.info("commit_refused", topic=self._topic, reason=str(error))
        except (KafkaError, TimeoutError) as error:
            # Retried one interval later, also by a hurried consumer; until then a crash redelivers more.
            self._tracker.put_back(offsets)
            asyncio.get_running_loop().call_later(self._kafka.commit_interval_s, self._has_finished.set)
            log.warning("commit_failed", topic=self._topic, error=repr(error))

"""One consumer of one lane for the topics of many versions, each of which keeps the offsets of its own group.

A consumer for each version would be a member of its group, with two connections, heartbeats and fetches: too much for
fifty versions without requests. So this consumer joins no group. It reads the partitions of its feeds' topics, and
commits the offsets of a topic for the group of its version. The broker accepts that only while the group has no member:
a version that has workers of its own is left to them.
"""

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from inferlane.contracts.naming import Lane
from inferlane.errors import ConsumerBrokenError, InferlaneError
from inferlane.runtime.kafka.arrivals import ArrivalListeners
from inferlane.runtime.kafka.assigned_positions import positions
from inferlane.runtime.kafka.clients import BROKER_ERRORS, broker_errors, make_consumer
from inferlane.runtime.kafka.fetch_wait import FetchWait
from inferlane.runtime.kafka.fetcher import has_failed, rest_between_fetches, set_fetch_wait
from inferlane.runtime.kafka.group_offsets import GroupHasMembersError, GroupOffsets
from inferlane.runtime.kafka.topic_feed import TopicFeed
from inferlane.runtime.retry import Retrier
from inferlane.runtime.service import essential

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

_GETMANY_MS = 500
_CALL_TIMEOUT_S = 5.0
# Seconds between tries for a topic that cannot be read yet, and between looks at the others.
_AGAIN_S = 1.0
_LOOK_S = 5.0
# The fetch wait while some partitions are paused: they resume only with the next fetch, so this one must be short.
_PAUSED_WAIT_MS = 20


class SharedConsumer:
    """Reads the topics of its feeds; the owner of each (`topic_feed.FeedOwner`). Used from one event loop."""

    def __init__(self, kafka: "KafkaSettings", *, lane: Lane, retrier: Retrier) -> None:
        self._kafka = kafka
        self._retrier = retrier
        self._lane = lane
        self._fetch_wait = FetchWait.for_lane(kafka, lane)
        self._arrivals = None if kafka.arrivals_dir is None else ArrivalListeners(kafka.arrivals_dir)
        self._feeds: dict[str, TopicFeed] = {}
        self._waiting: dict[str, TopicFeed] = {}
        # Where each partition is read next, as far as its feed was told.
        self._told: dict[TopicPartition, int] = {}
        self._paused: set[str] = set()
        self._changed = asyncio.Event()
        self._has_finished = asyncio.Event()
        # One commit at a time: none may overtake another, or be sent after the topic was left.
        self._committing = asyncio.Lock()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._consumer: AIOKafkaConsumer | None = None
        self._offsets: GroupOffsets
        self._last_record_s = time.monotonic()

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError: the broker does not answer.
        """
        consumer = make_consumer(self._kafka, group=None, fetch_max_wait_ms=self._fetch_wait.busy_ms)
        try:
            with broker_errors(self._kafka.bootstrap_servers):
                await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        self._consumer, self._offsets = consumer, GroupOffsets(consumer)
        if self._arrivals is not None:
            rest_between_fetches(consumer, self._arrivals, wakes_fetches=self._kafka.wakes_fetches)
        loops = {"fetch": self._fetch_for_ever, "commit": self._commit_for_ever, "tend": self._tend_for_ever}
        self._tasks = tuple(
            essential(asyncio.create_task(loop(), name=f"{name}:{self._lane}")) for name, loop in loops.items()
        )

    async def close(self) -> None:
        """Disconnect; the feeds have been closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._arrivals is not None:
            self._arrivals.close()
        if self._consumer is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    await self._consumer.stop()

    # What feeds ask.

    async def connect(self, feed: TopicFeed) -> None:
        """Read the topic of the feed as soon as it exists and its group has no member."""
        self._waiting[feed.topic] = feed
        self._changed.set()

    async def disconnect(self, feed: TopicFeed) -> None:
        """Commit finished work of the topic, and stop reading it."""
        await self.commit(feed)
        self._waiting.pop(feed.topic, None)
        if self._feeds.pop(feed.topic, None) is not None:
            with suppress(ConsumerBrokenError):  # it reads nothing that could be left
                self._assign()

    async def commit(self, feed: TopicFeed) -> None:
        """Commit finished work of the topic now; what the broker refuses is retried later."""
        async with self._committing:
            await self._commit_feed(feed)

    def commit_soon(self) -> None:
        """Commit finished work at the next interval."""
        self._has_finished.set()

    def note_room(self, feed: TopicFeed) -> None:
        """Resume fetching the topic if it was paused."""
        if feed.topic in self._paused and self._consumer is not None:
            self._paused.discard(feed.topic)
            with suppress(IllegalStateError):  # it is read no more
                self._consumer.resume(*feed.partitions)

    def is_read(self, partition: TopicPartition) -> bool:
        """Return whether every record of the partition that there was at the last fetch was returned."""
        consumer = self._running()
        end = consumer.last_stable_offset(partition) if partition in consumer.assignment() else None
        return end is not None and self._told.get(partition, -1) >= end

    def check(self) -> None:
        """Return if the consumer works.

        Raises:
            ConsumerBrokenError: it will never fetch again; the process must be replaced.
        """
        self._running()

    def _running(self) -> "AIOKafkaConsumer":
        if self._consumer is None:
            raise ConsumerBrokenError(f"the consumer of {self._lane} was not started")
        if any(task.done() for task in self._tasks) or has_failed(self._consumer):
            raise ConsumerBrokenError(f"a task of the consumer of {self._lane} has ended; restart the process")
        return self._consumer

    # Fetching.

    async def _fetch_for_ever(self) -> None:
        while True:
            await self._retrier.until_done(self._fetch, stage=f"fetch:{self._lane}")

    async def _fetch(self) -> None:
        consumer = self._running()
        with broker_errors(self._kafka.bootstrap_servers):
            fetched = await consumer.getmany(timeout_ms=_GETMANY_MS)
        for partition, position in positions(consumer).items():
            feed = self._feeds.get(partition.topic)
            records = fetched.get(partition, ())
            if feed is not None and (records or self._told.get(partition) != position):
                if position < self._told.get(partition, 0):
                    # The broker lost its data, or the topic was recreated.
                    feed.progress.start_over()
                self._told[partition] = position
                feed.offer(partition, records, position)
                if feed.is_full and partition.topic not in self._paused:
                    self._paused.add(partition.topic)
                    consumer.pause(*feed.partitions)
        now_s = time.monotonic()
        if fetched:
            self._last_record_s = now_s
        wait_ms = self._fetch_wait.after(now_s - self._last_record_s)
        set_fetch_wait(consumer, min(wait_ms, _PAUSED_WAIT_MS) if self._paused else wait_ms)

    # Committing.

    async def _commit_for_ever(self) -> None:
        while True:
            await self._has_finished.wait()
            is_hurried = any(feed.is_hurried for feed in self._feeds.values())
            await asyncio.sleep(0.0 if is_hurried else self._kafka.commit_interval_s)
            self._has_finished.clear()
            async with self._committing:
                for feed in list(self._feeds.values()):
                    await self._commit_feed(feed)

    async def _commit_feed(self, feed: TopicFeed) -> None:
        if not (offsets := feed.take_committable()):
            return
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await self._offsets.commit(feed.group, offsets)
        except GroupHasMembersError as error:
            log.warning("version_left_to_its_own_workers", topic=feed.topic, group=feed.group, reason=str(error))
            self._give_way(feed)
        except BROKER_ERRORS as error:
            feed.put_back(offsets)
            asyncio.get_running_loop().call_later(self._kafka.commit_interval_s, self._has_finished.set)
            log.warning("commit_failed", topic=feed.topic, error=repr(error))
        else:
            feed.note_committed(offsets)

    def _give_way(self, feed: TopicFeed) -> None:
        """Stop reading the topic until its group has no member."""
        feed.lose()
        if self._feeds.pop(feed.topic, None) is not None:
            self._waiting[feed.topic] = feed
            self._assign()

    # Which partitions are read.

    async def _tend_for_ever(self) -> None:
        looked_s = -_LOOK_S
        while True:
            self._changed.clear()
            if self._waiting:
                await self._connect_all()
            if time.monotonic() - looked_s >= _LOOK_S:
                await self._look()
                looked_s = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S if self._waiting else _LOOK_S):
                    await self._changed.wait()

    async def _connect_all(self) -> None:
        """Read every waiting topic that can be."""
        self._running()
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await self._offsets.know_topics(self._feeds, self._waiting)
        found = {}
        for feed in list(self._waiting.values()):
            try:
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    offsets = await self._offsets.claim(feed.group, feed.topic)
            except (*BROKER_ERRORS, InferlaneError) as error:
                log.debug("topic_not_read_yet", topic=feed.topic, reason=repr(error))
                continue
            if offsets:
                found[feed.topic] = offsets
        async with self._committing:
            for topic, offsets in found.items():
                feed_found = self._waiting.pop(topic, None)
                if feed_found is not None:
                    self._feeds[topic] = feed_found
                    feed_found.gain(offsets)
                    self._told.update(offsets)
                    log.info("topic_read", topic=topic, partitions=len(offsets))
            if found:
                self._assign()

    def _assign(self) -> None:
        """Read exactly the partitions of the feeds, each from where it was last read. Does not wait."""
        consumer = self._running()
        there = [partition for feed in self._feeds.values() for partition in feed.partitions]
        self._told = {partition: self._told[partition] for partition in there}
        consumer.assign(there)
        for partition, position in self._told.items():
            consumer.seek(partition, position)
        self._offsets.set_topics(self._feeds, self._waiting)
        self._paused &= self._feeds.keys()
        for topic in self._paused:
            consumer.pause(*self._feeds[topic].partitions)
        if self._arrivals is not None:
            self._arrivals.listen_to(self._feeds.keys())

    async def _look(self) -> None:
        """Compare finished work with the ends of the topics, and their partitions with those that are read."""
        consumer = self._running()
        ours = consumer.assignment()
        if not ours:
            return
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                ends = await consumer.end_offsets(ours)
        except (IllegalStateError, *BROKER_ERRORS) as error:
            log.debug("progress_not_checked", error=repr(error))
            ends = None
        for feed in list(self._feeds.values()):
            if ends is not None:
                known = {
                    partition.partition: max(ends[partition], consumer.last_stable_offset(partition) or 0)
                    for partition in feed.partitions
                    if partition in ends and partition in consumer.assignment()
                }
                feed.progress.note_ends(known, now_s=time.monotonic())
            if ends is None or feed.is_blocked():
                feed.progress.note_blocked()
            there = self._offsets.partitions(feed.topic)
            if there and set(there) != set(feed.partitions):
                # Start again from the committed offsets, with the added partitions.
                await self.commit(feed)
                self._give_way(feed)

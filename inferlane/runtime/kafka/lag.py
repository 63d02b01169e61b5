"""Consumer lag: of any group, from the broker, and of our own consumers, with their progress.

Liveness means progress, because consumers are known to stop without an error.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, NotCoordinatorForGroupError

from inferlane.runtime.kafka.clients import broker_errors, make_admin, make_consumer, partitions_by_topic
from inferlane.runtime.kafka.offsets import PartitionPosition, Position, Subscription

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.admin import AIOKafkaAdminClient

    from inferlane.runtime.settings import KafkaSettings


class BacklogReader:
    """Reads the positions of groups without joining them. Used from one event loop, by one caller at a time."""

    def __init__(self, kafka: "KafkaSettings") -> None:
        self._kafka = kafka
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._coordinators: dict[str, int] = {}

    async def read(self, subscriptions: Sequence[Subscription]) -> Mapping[Subscription, Position]:
        """Return the position of each subscription whose topic exists. Connects at the first call.

        Raises:
            UnavailableError: the broker does not answer; the next call connects anew.
        """
        found = await self.read_partitions(subscriptions)
        return {subscription: Position.of(partitions) for subscription, partitions in found.items()}

    async def read_partitions(
        self, subscriptions: Sequence[Subscription]
    ) -> Mapping[Subscription, Sequence[PartitionPosition]]:
        """Return every partition, by number, of each subscription whose topic exists. Connects at the first call.

        Raises:
            UnavailableError: the broker does not answer; the next call connects anew.
        """
        try:
            with broker_errors(self._kafka.bootstrap_servers):
                return await self._read(subscriptions)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect."""
        consumer, admin = self._consumer, self._admin
        self._consumer = self._admin = None
        self._coordinators.clear()
        if consumer is not None:
            await consumer.stop()
        if admin is not None:
            await admin.close()

    async def _read(self, subscriptions: Sequence[Subscription]) -> Mapping[Subscription, Sequence[PartitionPosition]]:
        consumer, admin = await self._connected()
        # This finds the topics of versions that were added since.
        there = await partitions_by_topic(admin)
        partitions = {
            subscription: there[subscription.topic] for subscription in subscriptions if subscription.topic in there
        }
        every = [partition for group in partitions.values() for partition in group]
        ends = await consumer.end_offsets(every)
        beginnings = await consumer.beginning_offsets(every)
        # One question for all topics of a group.
        groups: dict[str, list[TopicPartition]] = {}
        for subscription, ours in partitions.items():
            groups.setdefault(subscription.group, []).extend(ours)
        held = {group: await self._committed(admin, group, ours) for group, ours in groups.items()}
        return {
            subscription: [
                PartitionPosition(
                    beginning=beginnings[part], committed=held[subscription.group].get(part), end=ends[part]
                )
                for part in ours
            ]
            for subscription, ours in partitions.items()
        }

    async def _committed(
        self, admin: "AIOKafkaAdminClient", group: str, partitions: list[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        if group not in self._coordinators:
            self._coordinators[group] = await admin.find_coordinator(group)
        found = await admin.list_consumer_group_offsets(
            group, group_coordinator_id=self._coordinators[group], partitions=partitions
        )
        # The client drops an error of the whole answer, which then lists no partition: a group that moved to another
        # coordinator would seem to have committed nothing. A partition without a commit is listed, with -1.
        if missing := [partition for partition in partitions if partition not in found]:
            raise NotCoordinatorForGroupError(f"offsets of {group} are not told for {missing}")
        return {partition: held.offset for partition, held in found.items() if held.offset >= 0}

    async def _connected(self) -> "tuple[AIOKafkaConsumer, AIOKafkaAdminClient]":
        if self._consumer is None or self._admin is None:
            await self.close()
            self._consumer = make_consumer(self._kafka, group=None, grows=False)
            self._admin = make_admin(self._kafka)
            await self._consumer.start()
            await self._admin.start()
        return self._consumer, self._admin


# The ends that are remembered for one partition. With a look every 5 s, ages up to an hour and a half are exact; a
# greater age keeps growing from the oldest look that is left.
_LOOKS = 1_024


class OldestAge:
    """The age of a topic's backlog, from repeated looks at the ends and committed offsets of its partitions.

    A record is at least as old as the first look at an end past it. So an age is too low by at most the interval of
    looks, and counts from the first look after a start.
    """

    def __init__(self) -> None:
        self._ends: dict[int, deque[tuple[float, int]]] = {}

    def note(self, partitions: Sequence[PartitionPosition], *, at_s: float) -> float:
        """Note a look (every partition by number, `at_s` monotonic); return the age in seconds, 0 if nothing waits."""
        return max((self._note(number, part.done, part.end, at_s) for number, part in enumerate(partitions)), default=0)

    def _note(self, number: int, committed: int, end: int, at_s: float) -> float:
        seen = self._ends.setdefault(number, deque())
        if seen and end < seen[-1][1]:
            # The broker lost its data, or the topic was recreated: earlier looks do not apply.
            seen.clear()
        if not seen or end > seen[-1][1]:
            seen.append((at_s, end))
        while seen and seen[0][1] <= committed:
            seen.popleft()
        if len(seen) > _LOOKS:
            # The oldest look stays: it is the age.
            del seen[1]
        return at_s - seen[0][0] if seen else 0.0


class ConsumerState(StrEnum):
    """The state of a consumer. `blocked`: a dependency is unavailable, so a new process would not help."""

    JOINING = "joining"
    IDLE = "idle"
    MOVING = "moving"
    BLOCKED = "blocked"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerHealth:
    """A consumer at one moment. `still_s`: how long records have waited on some partition without progress there."""

    state: ConsumerState
    lag_records: int
    still_s: float


@dataclass(slots=True, kw_only=True)
class _Partition:
    next_offset: int
    end: int
    still_since_s: float | None = field(default=None)


class Progress:
    """Compares finished work with the ends of the topic, partition by partition. Pure; `now_s` is monotonic."""

    def __init__(self, *, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._partitions: dict[int, _Partition] = {}
        self._is_blocked = False

    def start_over(self) -> None:
        """Forget everything: after a rebalance the positions of the group are not known here."""
        self._partitions.clear()

    def note_done(self, partition: int, next_offset: int) -> None:
        """Note that every record before `next_offset` is finished."""
        known = self._partitions.setdefault(partition, _Partition(next_offset=next_offset, end=next_offset))
        if next_offset > known.next_offset:
            known.next_offset = next_offset
            known.still_since_s = None

    def note_ends(self, ends: Mapping[int, int], *, now_s: float) -> None:
        """Compare with the end of each partition; a partition without a note counts from its first known end."""
        self._is_blocked = False
        for number, end in ends.items():
            known = self._partitions.setdefault(number, _Partition(next_offset=end, end=end))
            known.end = end
            if known.next_offset >= end:
                known.still_since_s = None
            elif known.still_since_s is None:
                known.still_since_s = now_s

    def note_blocked(self) -> None:
        """Note that no consumer could make progress now: the time without progress starts again."""
        self._is_blocked = True
        for known in self._partitions.values():
            known.still_since_s = None

    def knows(self, partition: int) -> bool:
        """Return whether something was noted of the partition since the last rebalance."""
        return partition in self._partitions

    def health(self, *, now_s: float) -> ConsumerHealth:
        """Return the state of the consumer."""
        lag_records = sum(max(0, known.end - known.next_offset) for known in self._partitions.values())
        still = [known.still_since_s for known in self._partitions.values() if known.still_since_s is not None]
        still_s = now_s - min(still) if still else 0.0
        return ConsumerHealth(state=self._state(lag_records, still_s), lag_records=lag_records, still_s=still_s)

    def _state(self, lag_records: int, still_s: float) -> ConsumerState:
        if still_s > self._stuck_after_s:
            return ConsumerState.STUCK
        if self._is_blocked:
            return ConsumerState.BLOCKED
        return ConsumerState.MOVING if lag_records else ConsumerState.IDLE


log = structlog.get_logger(__name__)

# Often enough to notice a stuck consumer well within the limit; a look at one that does not fetch costs a small call.
_CHECKS_A_LIMIT = 6
_LONGEST_INTERVAL_S = 5.0
# How old an end may be that a fetch told: above the rest of an idle lane, below the interval of the looks.
_TOLD_WITHIN_S = 2.5


async def watch_progress(
    consumer: "AIOKafkaConsumer", progress: Progress, *, stuck_after_s: float, is_blocked: Callable[[], bool]
) -> None:
    """Update `progress` with the ends of the assigned partitions, until cancelled.

    If the broker does not answer, or if `is_blocked`, the consumer is blocked: a restart would not help.
    """
    interval_s = min(_LONGEST_INTERVAL_S, stuck_after_s / _CHECKS_A_LIMIT)
    while True:
        await asyncio.sleep(interval_s)
        try:
            async with asyncio.timeout(_LONGEST_INTERVAL_S):
                await _compare(consumer, progress)
        except IllegalStateError:
            # Revoked meanwhile: the next look uses the new assignment.
            continue
        except (KafkaError, OSError, TimeoutError) as error:
            log.debug("progress_not_checked", error=repr(error))
            progress.note_blocked()
        if is_blocked():
            progress.note_blocked()


async def _compare(consumer: "AIOKafkaConsumer", progress: Progress) -> None:
    ours = consumer.assignment()
    if not ours:
        return
    fresh = [partition for partition in ours if not progress.knows(partition.partition)]
    if fresh:
        await _note_start(consumer, progress, fresh)
    # A fetch tells the ends too. They are asked for if there is none: the consumer hangs, or nobody takes what it has.
    ours &= consumer.assignment()
    unknown = [partition for partition in ours if not _was_told(consumer, partition)]
    asked = await consumer.end_offsets(unknown) if unknown else {}
    # Tansu returns the start of the last batch as the end; a fetch, once there was one, knows the true end. Nobody can
    # read records behind an open transaction yet.
    ends = {
        partition.partition: max(asked.get(partition, 0), consumer.last_stable_offset(partition) or 0)
        for partition in ours & consumer.assignment()
    }
    progress.note_ends(ends, now_s=time.monotonic())


def _was_told(consumer: "AIOKafkaConsumer", partition: TopicPartition) -> bool:
    """Return whether a fetch told the end of the partition a moment ago."""
    told_ms = consumer.last_poll_timestamp(partition)
    is_fresh = told_ms is not None and 0 <= time.time() * 1000 - told_ms < _TOLD_WITHIN_S * 1000
    return is_fresh and consumer.last_stable_offset(partition) is not None


async def _note_start(consumer: "AIOKafkaConsumer", progress: Progress, fresh: list[TopicPartition]) -> None:
    """Note the group's position at the assignment; retention may have moved the first record past it."""
    beginnings = await consumer.beginning_offsets(fresh)
    for partition in fresh:
        committed = await consumer.committed(partition) or 0
        progress.note_done(partition.partition, max(committed, beginnings[partition]))

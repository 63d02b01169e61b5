"""How much waits for a consumer group, as the broker knows it."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from aiokafka.errors import NotCoordinatorForGroupError

from inferlane.runtime.kafka.clients import broker_errors, make_consumer, partitions_by_topic
from inferlane.runtime.kafka.offsets import PartitionPosition, Position, Subscription
from inferlane.runtime.topics import make_admin

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.admin import AIOKafkaAdminClient

    from inferlane.runtime.config import Settings


class BacklogReader:
    """Reads positions of groups that it does not belong to. One event loop, one caller at a time."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
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
            with broker_errors(self._settings.kafka_bootstrap_servers):
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
        # Topics of a version that was added since are seen here.
        there = await partitions_by_topic(admin)
        partitions = {
            subscription: there[subscription.topic] for subscription in subscriptions if subscription.topic in there
        }
        every = [partition for group in partitions.values() for partition in group]
        ends = await consumer.end_offsets(every)
        beginnings = await consumer.beginning_offsets(every)
        found = {}
        for subscription, ours in partitions.items():
            held = await self._committed(admin, subscription.group, ours)
            found[subscription] = [
                PartitionPosition(beginning=beginnings[partition], committed=held.get(partition), end=ends[partition])
                for partition in ours
            ]
        return found

    async def _committed(
        self, admin: "AIOKafkaAdminClient", group: str, partitions: list[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        if group not in self._coordinators:
            self._coordinators[group] = await admin.find_coordinator(group)
        found = await admin.list_consumer_group_offsets(
            group, group_coordinator_id=self._coordinators[group], partitions=partitions
        )
        # The client drops an error of the whole answer, which then names no partition: a group that moved to another
        # coordinator would seem to have committed nothing. A partition that was never committed is named, with -1.
        if missing := [partition for partition in partitions if partition not in found]:
            raise NotCoordinatorForGroupError(f"offsets of {group} are not told for {missing}")
        return {partition: held.offset for partition, held in found.items() if held.offset >= 0}

    async def _connected(self) -> "tuple[AIOKafkaConsumer, AIOKafkaAdminClient]":
        if self._consumer is None or self._admin is None:
            await self.close()
            self._consumer = make_consumer(self._settings, group=None)
            self._admin = make_admin(self._settings)
            await self._consumer.start()
            await self._admin.start()
        return self._consumer, self._admin


# Ends that are remembered for one partition. With a look every 5 s an hour and a half of standing still is told
# exactly; of a longer one the age keeps growing from the oldest look that is left.
_LOOKS = 1_024


class OldestAge:
    """Ages of a topic's backlog, from looks at the ends and the committed offsets of its partitions.

    A record is at least as old as the first look at an end past it. So an age is too low by at most the time between
    two looks, and counts from the first look after a start.
    """

    def __init__(self) -> None:
        self._ends: dict[int, deque[tuple[float, int]]] = {}

    def note(self, partitions: Sequence[PartitionPosition], *, at_s: float) -> float:
        """Note a look (every partition by number, `at_s` monotonic); return the age in seconds, 0 if nothing waits."""
        return max((self._note(number, part.done, part.end, at_s) for number, part in enumerate(partitions)), default=0)

    def _note(self, number: int, committed: int, end: int, at_s: float) -> float:
        seen = self._ends.setdefault(number, deque())
        if seen and end < seen[-1][1]:
            # A broker that forgot, or a topic made anew: what was seen says nothing of it.
            seen.clear()
        if not seen or end > seen[-1][1]:
            seen.append((at_s, end))
        while seen and seen[0][1] <= committed:
            seen.popleft()
        if len(seen) > _LOOKS:
            # The oldest look stays: it is the age.
            del seen[1]
        return at_s - seen[0][0] if seen else 0.0

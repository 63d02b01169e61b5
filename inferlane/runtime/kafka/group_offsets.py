"""Offsets of groups without members: read and committed by a consumer with assigned partitions.

A broker accepts such a commit only while the group has no member, so it cannot disturb a pool that reads as a group.
The lag of the group is read like that of any other.
"""

from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IllegalGenerationError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.structs import TopicPartition

from inferlane.errors import InferlaneError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.client import AIOKafkaClient

_NO_GENERATION, _NO_MEMBER, _BROKERS_RETENTION = -1, "", -1
_HAS_MEMBERS = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)
_MOVED = (NotCoordinatorForGroupError, GroupCoordinatorNotAvailableError)


class GroupHasMembersError(InferlaneError):
    """The group has members, so nobody else may commit for it. Remedy: stop them, or leave the group to them."""

    code = "group_has_members"


class GroupOffsets:
    """The offsets of any number of groups, over one consumer without a group. Used from one event loop."""

    def __init__(self, consumer: "AIOKafkaConsumer") -> None:
        self._client: AIOKafkaClient = consumer._client  # noqa: SLF001 - a consumer asks for its own group alone
        self._coordinators: dict[str, int] = {}

    def set_topics(self, *topics: Iterable[str]) -> Awaitable[object]:
        """Let the client load the partitions of these topics; wait for them, or go on."""
        known: Awaitable[object] = self._client.set_topics(list(chain(*topics)))
        return known

    async def know_topics(self, read: Iterable[str], awaited: Collection[str]) -> None:
        """Load the partitions of these topics; awaited topics are looked for even if they were missing before.

        Raises:
            KafkaError: the broker does not tell.
        """
        await self.set_topics(read, awaited)
        if not all(map(self.partitions, awaited)):
            await self._client.force_metadata_update()

    def partitions(self, topic: str) -> Sequence[TopicPartition]:
        """Return the partitions of a topic that the client knows; none if the topic does not exist."""
        numbers = self._client.cluster.partitions_for_topic(topic) or ()
        return [TopicPartition(topic, number) for number in sorted(numbers)]

    async def claim(self, group: str, topic: str) -> Mapping[TopicPartition, int]:
        """Return the next offset of each partition of a topic, and commit it again to prove that we may commit.

        Raises:
            GroupHasMembersError: the group has members.
            KafkaError: the broker does not answer.
        """
        partitions = self.partitions(topic)
        if not partitions:
            return {}
        held = await self.read(group, partitions)
        # An offset before the first record leads to the first record.
        offsets = {partition: held.get(partition, 0) for partition in partitions}
        await self.commit(group, offsets)
        return offsets

    async def read(self, group: str, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return the committed offsets of the group, for partitions that have one.

        Raises:
            KafkaError: the broker does not tell.
        """
        asked = OffsetFetchRequest(group, [(topic, list(numbers)) for topic, numbers in _by_topic(partitions).items()])
        answer = await self._send(group, asked)
        found = {}
        for topic, parts in answer.topics:
            for partition, offset, _, code in parts:
                self._check(group, code)
                if offset >= 0:
                    found[TopicPartition(topic, partition)] = offset
        return found

    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit for a group.

        Raises:
            GroupHasMembersError: the group has members; nothing was committed.
            KafkaError: the broker did not commit all of them.
        """
        topics = [
            (topic, [(number, offsets[TopicPartition(topic, number)], "") for number in numbers])
            for topic, numbers in _by_topic(offsets).items()
        ]
        answer = await self._send(
            group, OffsetCommitRequest(group, _NO_GENERATION, _NO_MEMBER, _BROKERS_RETENTION, topics)
        )
        for _, parts in answer.topics:
            for _, code in parts:
                self._check(group, code)

    async def _send(self, group: str, request: Any) -> Any:
        if group not in self._coordinators:
            node = await self._client.coordinator_lookup(CoordinationType.GROUP, group)
            if not await self._client.ready(node, group=ConnectionGroup.COORDINATION):
                raise GroupCoordinatorNotAvailableError(f"no connection to the coordinator of {group}")
            self._coordinators[group] = node
        try:
            return await self._client.send(self._coordinators[group], request, group=ConnectionGroup.COORDINATION)
        except BaseException:
            # The coordinator may be another one from now on.
            self._coordinators.pop(group, None)
            raise

    def _check(self, group: str, code: int) -> None:
        if not code:
            return
        error = for_code(code)
        if issubclass(error, _HAS_MEMBERS):
            raise GroupHasMembersError(f"the group {group} has members, so that a shared worker leaves it to them")
        if issubclass(error, _MOVED):
            self._coordinators.pop(group, None)
        raise error(f"the offsets of {group}")


def _by_topic(partitions: Sequence[TopicPartition] | Mapping[TopicPartition, int]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for partition in partitions:
        topics.setdefault(partition.topic, []).append(partition.partition)
    return topics

"""What a group has before it, from what the broker said; the client is a double that says what brokers were seen to."""

from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from inferlane.errors import UnavailableError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import PartitionPosition, Position, Subscription

WORK = Subscription("inferlane.iris.v1.requests", "inferlane.iris.v1")


class Consumer:
    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 6_000)

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def stop(self) -> None: ...


class Admin:
    """`committed` as aiokafka returns it: nothing where the whole answer was an error, such as NOT_COORDINATOR."""

    def __init__(self, committed: dict[TopicPartition, int]) -> None:
        self._committed = committed

    async def describe_topics(self, *_: object) -> list[dict[str, Any]]:
        partitions = [{"error_code": 0, "partition": number} for number in (0, 1)]
        return [{"error_code": 0, "topic": WORK.topic, "is_internal": False, "partitions": partitions}]

    async def find_coordinator(self, _group: str) -> int:
        return 1

    async def list_consumer_group_offsets(self, *_: object, **__: object) -> dict[TopicPartition, OffsetAndMetadata]:
        return {partition: OffsetAndMetadata(offset, "") for partition, offset in self._committed.items()}

    async def close(self) -> None: ...


def reader_with(admin: Admin) -> BacklogReader:
    reader = BacklogReader(load_settings().kafka)
    reader._consumer, reader._admin = cast("Any", Consumer()), cast("Any", admin)
    return reader


async def test_a_partition_without_a_commit_waits_whole_and_one_with_a_commit_from_there() -> None:
    admin = Admin({TopicPartition(WORK.topic, 0): 5_990, TopicPartition(WORK.topic, 1): -1})
    found = await reader_with(admin).read_partitions([WORK])
    assert found[WORK] == [
        PartitionPosition(beginning=0, committed=5_990, end=6_000),
        PartitionPosition(beginning=0, committed=None, end=6_000),
    ]
    assert Position.of(found[WORK]).lag_records == 6_010


async def test_a_group_that_moved_to_another_coordinator_has_not_committed_nothing() -> None:
    """Guards `missing`: without it the whole log seems to wait, the API refuses everybody, and the autoscaler grows."""
    reader = reader_with(Admin({}))
    with pytest.raises(UnavailableError, match=r"inferlane\.iris\.v1"):
        await reader.read_partitions([WORK])
    # The next call asks anew which node it is.
    assert not reader._coordinators
    assert reader._admin is None

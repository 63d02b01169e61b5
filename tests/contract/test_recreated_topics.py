"""A topic that is deleted and created again, or forgotten by its broker, is read from its first record."""

import asyncio

import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.traffic_split import Split
from inferlane.runtime.compacted_table import TableFollower
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.split_table import SplitFollower, SplitTable, publish_split
from inferlane.runtime.table_writes import publish_to_table
from tests.support.brokers import Broker
from tests.support.lane_records import WAIT_S, values
from tests.support.recreated_topic import recreate

pytestmark = pytest.mark.timeout(300)

NAMES = Names()
TOPIC = NAMES.work_topic("iris", "v1", Lane.REQUESTS)


@pytest.mark.parametrize("records", [1, 8], ids=["fewer than before", "more than before"])
async def test_a_group_reads_on_after_its_topic_was_recreated(broker: Broker, records: int) -> None:
    """Its position, and on some brokers its committed offset, is past the end of the new log, or inside its batch."""
    settings = broker.settings(ingress_partitions=1, work_partitions=1)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    producer = BatchProducer(settings.kafka)
    await producer.start()
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group="inferlane.recreated")
    await consumer.start()
    try:
        old = [b"old %d" % number for number in range(5)]
        await producer.send([OutRecord(TOPIC, b"", value, []) for value in old])
        assert await values(consumer, len(old)) == old
        await recreate(settings, TOPIC)
        new = [b"new %d" % number for number in range(records)]
        await producer.send([OutRecord(TOPIC, b"", value, []) for value in new])
        assert await values(consumer, len(new)) == new
    finally:
        await consumer.close()
        await producer.close()


async def test_a_table_follows_its_topic_after_that_was_recreated(broker: Broker) -> None:
    settings = broker.settings(ingress_partitions=1, work_partitions=1)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    table = SplitTable()
    follower = SplitFollower(settings.kafka, settings.stack.names, table)
    await follower.start()
    try:
        for _ in range(5):
            offset = await publish_split(settings.kafka, settings.stack.names, Split(model="iris", weights={"v1": 1.0}))
        await table.wait_applied(offset, timeout_s=WAIT_S)
        await recreate(settings, NAMES.splits)
        before = table.mark()
        offset = await publish_split(settings.kafka, settings.stack.names, Split(model="iris", weights={"v2": 1.0}))
        await table.wait_applied(offset, timeout_s=WAIT_S, since=before)
        split = table.get("iris")
        assert split is not None
        assert split.weights == {"v2": 1.0}
    finally:
        await follower.close()


async def test_a_recreated_topic_gets_back_what_processes_that_read_it_still_act_on(broker: Broker) -> None:
    """Guards `TableKeeper`: a process that started later acted on an empty table, and both were thought to be right."""
    settings = broker.settings(ingress_partitions=1, work_partitions=1)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    keepers = [SplitFollower(settings.kafka, settings.stack.names, SplitTable()) for _ in range(2)]
    for keeper in keepers:
        await keeper.start()
    try:
        for model, weight in (("kept", 0.3), ("changed", 0.3), ("removed", 0.3)):
            await publish_split(settings.kafka, settings.stack.names, split_of(model, weight))
        await publish_to_table(settings.kafka, NAMES.splits, key="removed", value=None)
        for keeper in keepers:
            await keeper.read_to_end(timeout_s=WAIT_S)
        await recreate(settings, NAMES.splits)
        await publish_split(settings.kafka, settings.stack.names, split_of("changed", 0.6))
        later = SplitTable()
        async with asyncio.timeout(WAIT_S):
            while later.get("kept") is None:
                later = SplitTable()
                follower = TableFollower(settings.kafka, later, topic=NAMES.splits)
                await follower.start()
                await follower.close()
        assert [later.get(model) for model in ("kept", "changed", "removed")] == [
            split_of("kept", 0.3),
            split_of("changed", 0.6),
            None,
        ]
    finally:
        for keeper in keepers:
            await keeper.close()


def split_of(model: str, weight: float) -> Split:
    return Split(model=model, weights={"v1": 1 - weight, "v2": weight}, generation=1)

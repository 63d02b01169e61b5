"""A topic that is deleted and created again, or forgotten by its broker, is read from its first record."""

import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.traffic_split import Split
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.split_table import SplitFollower, SplitTable, publish_split
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

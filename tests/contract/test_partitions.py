"""Topics whose partitions change while producers and consumers run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.errors import UnavailableError
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_admin, make_consumer
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_added_partitions
from tests.support.brokers import Broker

pytestmark = pytest.mark.timeout(300)

TOPIC = Names().work_topic("iris", "v1", Lane.REQUESTS)
GROUP = "inferlane.contract"
WAIT_S = 120.0
BEFORE, MORE = 2, 5


@pytest.fixture
async def settings(broker: Broker) -> Settings:
    if broker.is_embedded:
        pytest.skip("the embedded broker has no CreatePartitions; run with --broker apache")
    settings = broker.settings(ingress_partitions=1, work_partitions=BEFORE, kafka_request_timeout_ms=5_000)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    return settings


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = make_admin(settings.kafka)
    await admin.start()
    yield admin
    await admin.close()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[BatchProducer, LaneConsumer]]:
    producer, consumer = BatchProducer(settings.kafka), LaneConsumer(settings.kafka, topic=TOPIC, group=GROUP)
    await producer.start()
    await consumer.start()
    try:
        yield producer, consumer
    finally:
        await asyncio.wait_for(asyncio.gather(consumer.close(), producer.close()), WAIT_S)


async def work(producer: BatchProducer, consumer: LaneConsumer, *, until: Callable[[set[int]], bool]) -> None:
    """Send a record at a time and finish what comes, until the partitions of what came say enough and all is done."""
    sent = came = 0
    partitions: set[int] = set()
    enough = False
    async with asyncio.timeout(WAIT_S):
        while not enough or came < sent:
            if not enough:
                await send(producer, OutRecord(TOPIC, b"key-%d" % sent, b"value", []))
                sent += 1
            take = await consumer.fetch(max_records=100, timeout_s=0.05)
            if take is not None:
                came += len(take.records)
                partitions |= {record.partition for record in take.records}
                consumer.finish(take)
            enough = enough or until(partitions)


async def send(producer: BatchProducer, record: OutRecord) -> None:
    while True:
        try:
            return await producer.send([record])
        except UnavailableError:
            # What may succeed later is sent again, as every caller of ours does.
            await asyncio.sleep(0.1)


async def test_partitions_that_are_added_are_used_by_who_already_runs(
    settings: Settings, admin: AIOKafkaAdminClient
) -> None:
    """Guards the listener of `BatchProducer` and the age of metadata: they were found out after five minutes."""
    reader = BacklogReader(settings.kafka)
    subscription = Subscription(TOPIC, GROUP)
    async with running(settings) as (producer, consumer):
        await work(producer, consumer, until=lambda seen: len(seen) == BEFORE)
        assert len((await reader.read_partitions([subscription]))[subscription]) == BEFORE
        await admin.create_partitions({TOPIC: NewPartitions(MORE)})
        await work(producer, consumer, until=lambda seen: len(seen) == MORE)
        assert len((await reader.read_partitions([subscription]))[subscription]) == MORE
    await reader.close()


async def test_a_topic_that_is_made_anew_with_fewer_partitions_goes_on(
    settings: Settings, admin: AIOKafkaAdminClient
) -> None:
    async with running(settings) as (producer, consumer):
        await work(producer, consumer, until=lambda seen: len(seen) == BEFORE)
        await admin.delete_topics([TOPIC])
        await recreate(admin, partitions=1)
        await work(producer, consumer, until=bool)
        await work(producer, consumer, until=bool)


async def recreate(admin: AIOKafkaAdminClient, *, partitions: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            response = await admin.create_topics([NewTopic(TOPIC, partitions, 1)])
            if not response.topic_errors[0][1]:
                return
            await asyncio.sleep(0.1)


async def test_a_reader_without_a_group_reads_partitions_that_are_added(
    settings: Settings, admin: AIOKafkaAdminClient
) -> None:
    """A bulk job reads its results so: workers write to every partition that there is."""
    producer = BatchProducer(settings.kafka)
    await producer.start()
    consumer = make_consumer(settings.kafka, group=None)
    await consumer.start()
    consumer.assign([TopicPartition(TOPIC, number) for number in range(BEFORE)])
    await consumer.seek_to_end()
    await admin.create_partitions({TOPIC: NewPartitions(MORE)})
    sent, found = 0, []
    async with asyncio.timeout(WAIT_S):
        while len({record.partition for record in found}) < MORE:
            await send(producer, OutRecord(TOPIC, b"key-%d" % sent, b"%d" % sent, []))
            sent += 1
            await read_added_partitions(consumer, TOPIC)
            for records in (await consumer.getmany(timeout_ms=50)).values():
                found += records
        while len(found) < sent:
            for records in (await consumer.getmany(timeout_ms=50)).values():
                found += records
    assert sorted(int(record.value) for record in found) == list(range(sent))
    await consumer.stop()
    await producer.close()

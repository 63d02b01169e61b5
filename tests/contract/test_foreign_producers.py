"""What others write to our topics, with Kafka's own C client: compressed, in transactions, or too much."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import confluent_kafka
import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import is_unreadable
from inferlane.contracts.naming import Lane, Names
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.lag import BacklogReader, ConsumerState
from inferlane.runtime.kafka.offsets import Subscription
from tests.support.brokers import Broker

pytestmark = pytest.mark.timeout(300)

TOPIC = Names().work_topic("iris", "v1", Lane.REQUESTS)
GROUP = "inferlane.contract"
WAIT_S = 120.0
CODECS = ("gzip", "snappy", "lz4", "zstd")
VALUE = b"1.0, 2.0, 3.0, 4.0; " * 50
PARTITIONS = 2


@pytest.fixture
async def settings(broker: Broker) -> Settings:
    settings = broker.settings(
        ingress_partitions=1, work_partitions=PARTITIONS, max_body_bytes=256 * 1024, max_result_bytes=1024
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    return settings


def producer(settings: Settings, **options: object) -> confluent_kafka.Producer:
    return confluent_kafka.Producer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "message.max.bytes": 64_000_000, **options}
    )


def write(settings: Settings, values: list[bytes], *, codec: str, partition: int) -> None:
    """One batch of them."""
    writer = producer(settings, **{"compression.type": codec, "linger.ms": 100, "batch.size": 64_000_000})
    for value in values:
        writer.produce(TOPIC, value, partition=partition)
    assert writer.flush(WAIT_S) == 0


@asynccontextmanager
async def consuming(settings: Settings) -> AsyncIterator[LaneConsumer]:
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group=GROUP)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.close()


async def answered(consumer: LaneConsumer, count: int) -> list[bytes | None]:
    """So many values, each finished; None stands for a batch that could not be read."""
    found: list[bytes | None] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            take = await consumer.fetch(max_records=100, timeout_s=1)
            if take is not None:
                found += [None if is_unreadable(record.headers) else record.value for record in take.records]
                consumer.finish(take)
    return found


async def wait_for_no_lag(settings: Settings, consumer: LaneConsumer) -> None:
    reader = BacklogReader(settings.kafka)
    subscription = Subscription(TOPIC, GROUP)
    try:
        async with asyncio.timeout(WAIT_S):
            while (await reader.read([subscription]))[subscription].lag_records:
                assert await consumer.fetch(max_records=100, timeout_s=0.2) is None
    finally:
        await reader.close()


@pytest.mark.parametrize("codec", CODECS)
async def test_every_codec_is_read(settings: Settings, codec: str) -> None:
    values = [b"%d " % number + VALUE for number in range(20)]
    await asyncio.to_thread(write, settings, values, codec=codec, partition=0)
    async with consuming(settings) as consumer:
        assert await answered(consumer, len(values)) == values


@pytest.mark.parametrize("codec", CODECS)
async def test_a_batch_that_inflates_beyond_the_limit_is_passed_and_costs_nothing_but_itself(
    settings: Settings, codec: str
) -> None:
    for partition in range(PARTITIONS):
        await asyncio.to_thread(write, settings, [b"before"], codec="none", partition=partition)
        await asyncio.to_thread(write, settings, [bytes(6_000_000)], codec=codec, partition=partition)
        await asyncio.to_thread(write, settings, [b"after"], codec=codec, partition=partition)
    async with consuming(settings) as consumer:
        found = await answered(consumer, 3 * PARTITIONS)
        await wait_for_no_lag(settings, consumer)
    assert sorted(value or b"" for value in found) == sorted([b"before", b"", b"after"] * PARTITIONS)


@pytest.fixture
def transactional(broker: Broker, settings: Settings) -> confluent_kafka.Producer:
    if broker.is_embedded:
        pytest.skip("the embedded broker has no transactions; run with --broker apache")
    writer = producer(settings, **{"transactional.id": "contract"})
    writer.init_transactions(WAIT_S)
    return writer


def transact(writer: confluent_kafka.Producer, *values: bytes) -> None:
    """Begin a transaction and write these to each partition, acknowledged but not decided on."""
    writer.begin_transaction()
    for partition in range(PARTITIONS):
        for value in values:
            writer.produce(TOPIC, value, partition=partition)
    assert writer.flush(WAIT_S) == 0


async def test_of_transactions_only_what_was_committed_is_returned_and_nothing_of_them_is_lag(
    settings: Settings, transactional: confluent_kafka.Producer
) -> None:
    """Guards `read_committed` and the commit of positions: a marker at the end of a partition counted for ever."""
    await asyncio.to_thread(transact, transactional, b"taken back")
    await asyncio.to_thread(transactional.abort_transaction, WAIT_S)
    await asyncio.to_thread(transact, transactional, b"kept")
    await asyncio.to_thread(transactional.commit_transaction, WAIT_S)
    async with consuming(settings) as consumer:
        assert await answered(consumer, PARTITIONS) == [b"kept"] * PARTITIONS
        await wait_for_no_lag(settings, consumer)
        await asyncio.to_thread(transact, transactional, b"taken back")
        await asyncio.to_thread(transactional.abort_transaction, WAIT_S)
        # Nothing is returned here, and the markers are passed all the same.
        await wait_for_no_lag(settings, consumer)
    async with consuming(settings) as consumer:
        await wait_for_no_lag(settings, consumer)


async def test_an_open_transaction_is_not_returned_and_is_no_lag_until_it_is_committed(
    settings: Settings, transactional: confluent_kafka.Producer
) -> None:
    await asyncio.to_thread(transact, transactional, b"open")
    async with consuming(settings) as consumer:
        await wait_for_no_lag(settings, consumer)
        assert await consumer.fetch(max_records=10, timeout_s=1) is None
        await asyncio.to_thread(transactional.commit_transaction, WAIT_S)
        assert await answered(consumer, PARTITIONS) == [b"open"] * PARTITIONS
        await wait_for_no_lag(settings, consumer)


async def test_a_consumer_that_only_markers_are_left_for_is_idle_and_not_stuck(
    settings: Settings, transactional: confluent_kafka.Producer
) -> None:
    settings = settings.changed(stuck_after_s=1.0)
    await asyncio.to_thread(transact, transactional, b"kept")
    await asyncio.to_thread(transactional.commit_transaction, WAIT_S)
    async with consuming(settings) as consumer:
        await answered(consumer, PARTITIONS)
        await wait_for_no_lag(settings, consumer)
        async with asyncio.timeout(WAIT_S):
            while consumer.health().state is not ConsumerState.IDLE:
                await consumer.fetch(max_records=10, timeout_s=0.2)
        # Several looks at the ends later it still is.
        for _ in range(15):
            assert await consumer.fetch(max_records=10, timeout_s=0.2) is None
            assert consumer.health().state is ConsumerState.IDLE

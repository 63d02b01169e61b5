"""A consumer's health on a real broker: it says when records wait and nothing moves."""

import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.lag import ConsumerState
from inferlane.runtime.kafka.producer import BatchProducer
from tests.support.brokers import Broker
from tests.support.parts import eventually

pytestmark = pytest.mark.timeout(240)

TOPIC = "inferlane.requests"


@pytest.fixture
async def settings(broker: Broker) -> Settings:
    settings = broker.settings(ingress_partitions=1, stuck_after_s=1.0)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
    return settings


async def test_a_consumer_that_takes_nothing_is_stuck_and_one_that_finishes_is_idle(settings: Settings) -> None:
    """Guards `watch_progress`: taken out, `/livez` of a worker that stands still says ok for ever."""
    producer = BatchProducer(settings.kafka)
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group="g")
    await producer.start()
    await consumer.start()

    async def is_stuck() -> bool:
        return consumer.health().state is ConsumerState.STUCK

    async def is_idle() -> bool:
        return consumer.health().state is ConsumerState.IDLE

    try:
        await eventually(is_idle)
        await producer.send([OutRecord(TOPIC, b"k", b"v", [])])
        # Nobody takes it.
        await eventually(is_stuck)
        assert consumer.health().lag_records == 1
        take = None
        while take is None:
            take = await consumer.fetch(max_records=10, timeout_s=1)
        # Taken is not done: a worker that hangs on a batch is stuck too.
        assert await is_stuck()
        consumer.finish(take)
        await eventually(is_idle)
    finally:
        await consumer.close()
        await producer.close()


async def test_standing_still_for_a_cause_outside_is_blocked(settings: Settings) -> None:
    producer = BatchProducer(settings.kafka)
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group="g", is_blocked=lambda: True)
    await producer.start()
    await consumer.start()

    async def is_blocked() -> bool:
        health = consumer.health()
        return health.state is ConsumerState.BLOCKED and health.lag_records == 1

    try:
        await producer.send([OutRecord(TOPIC, b"k", b"v", [])])
        await eventually(is_blocked)
    finally:
        await consumer.close()
        await producer.close()

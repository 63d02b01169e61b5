"""A consumer's health on a real broker: it says when records wait and nothing moves."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.lag import BacklogReader, ConsumerState, Progress
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.kafka.producer import BatchProducer
from tests.support.brokers import Broker
from tests.support.lane_records import values
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


async def test_the_ends_that_fetches_tell_are_not_asked_for_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    note, ask = Progress.note_ends, AIOKafkaConsumer.end_offsets

    def noted(progress: Progress, ends: Mapping[int, int], *, now_s: float) -> None:
        looks.append("look")
        note(progress, ends, now_s=now_s)

    async def asked(consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> Any:
        looks.append("question")
        return await ask(consumer, partitions)

    monkeypatch.setattr(Progress, "note_ends", noted)
    monkeypatch.setattr(AIOKafkaConsumer, "end_offsets", asked)
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group="g")

    async def is_told() -> bool:
        return looks[-3:] == ["look"] * 3

    await consumer.start()
    try:
        await eventually(is_told, within_s=60)
        assert consumer.health().state is ConsumerState.IDLE
    finally:
        await consumer.close()


async def test_the_offsets_of_a_group_are_asked_for_once_for_all_its_topics(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = AIOKafkaAdminClient.list_consumer_group_offsets

    async def counted(admin: AIOKafkaAdminClient, group: str, **options: Any) -> Any:
        asked.append(group)
        return await ask(admin, group, **options)

    monkeypatch.setattr(AIOKafkaAdminClient, "list_consumer_group_offsets", counted)
    names = settings.stack.names
    requests, bulk = (Subscription(names.ingress[lane], names.router_group) for lane in Lane)
    producer, reader = BatchProducer(settings.kafka), BacklogReader(settings.kafka)
    consumer = LaneConsumer(settings.kafka, topic=requests.topic, group=requests.group)
    await producer.start()
    await consumer.start()

    async def is_committed() -> bool:
        asked.clear()
        found = await reader.read([requests, bulk])
        return (found[requests].committed, found[bulk].committed) == (2, 0)

    try:
        await producer.send([OutRecord(requests.topic, b"k", b"v", [])] * 2)
        assert await values(consumer, 2) == [b"v", b"v"]
        await eventually(is_committed)
        assert asked == [names.router_group]
    finally:
        await consumer.close()
        await reader.close()
        await producer.close()

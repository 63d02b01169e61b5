"""What a producer does with records that a topic does not take, on whichever broker `--broker` says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane
from inferlane.errors import InferlaneError, PayloadTooLargeError, TopicMissingError, UnavailableError
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_admin, make_producer
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.record_writer import write_each
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.retry import Retrier
from tests.support.brokers import Broker

pytestmark = pytest.mark.timeout(300)

WAIT_S = 120.0
SMALL_BYTES = 20_000
PROBE = b"probe"


@pytest.fixture
async def settings(broker: Broker) -> Settings:
    settings = broker.settings(
        ingress_partitions=1, work_partitions=2, max_body_bytes=256 * 1024, max_result_bytes=1024
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
    return settings


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[BatchProducer]:
    producer = BatchProducer(settings.kafka)
    await producer.start()
    yield producer
    await producer.close()


def topic(settings: Settings, version: str) -> str:
    return settings.stack.names.work_topic("iris", version, Lane.REQUESTS)


async def delete(settings: Settings, name: str) -> None:
    admin = make_admin(settings.kafka)
    await admin.start()
    try:
        await admin.delete_topics([name])
        async with asyncio.timeout(WAIT_S):
            while name in await admin.list_topics():  # noqa: ASYNC110 - a broker has no event for it
                await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def limit(settings: Settings, name: str, limit_bytes: int) -> None:
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # noqa: PLC0415 - one use

    admin = make_admin(settings.kafka)
    await admin.start()
    try:
        configs = {"max.message.bytes": str(limit_bytes)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])
    finally:
        await admin.close()
    # A broker heeds it a little after it has answered.
    probe = make_producer(settings.kafka)
    await probe.start()
    try:
        async with asyncio.timeout(WAIT_S):
            with suppress(MessageSizeTooLargeError):
                while True:
                    await probe.send_and_wait(name, PROBE + b"x" * limit_bytes, partition=0)
    finally:
        await probe.stop()


async def values(settings: Settings, name: str) -> list[bytes]:
    partitions = [TopicPartition(name, number) for number in range(2)]
    read = [record.value async for batch in read_since(settings.kafka, partitions, since_s=0) for record in batch]
    return [value for value in read if not value.startswith(PROBE)]


async def outcomes_of(producer: BatchProducer, records: list[OutRecord]) -> list[InferlaneError | None]:
    async with asyncio.timeout(WAIT_S):
        return list(await write_each(producer, Retrier(), records, stage="test"))


async def test_a_topic_that_was_never_there_is_told_and_costs_the_others_nothing(
    settings: Settings, producer: BatchProducer
) -> None:
    there, gone = OutRecord(topic(settings, "v1"), b"k", b"there", []), OutRecord("inferlane.gone", b"k", b"gone", [])
    outcomes = await producer.send_each([gone, there, gone])
    assert outcomes[1] is None
    # It may have been created a moment ago.
    assert isinstance(outcomes[0], UnavailableError)
    first, second, third = await outcomes_of(producer, [gone, there, gone])
    assert second is None
    assert isinstance(first, TopicMissingError)
    assert "inferlane.gone" in str(first)
    assert "inferlane topics create" in str(first)
    assert isinstance(third, TopicMissingError)
    assert await values(settings, there.topic) == [b"there", b"there"]


async def test_a_topic_that_is_deleted_holds_no_other_and_is_used_again_when_it_is_back(
    broker: Broker, settings: Settings, producer: BatchProducer
) -> None:
    if broker.is_embedded:
        pytest.skip("the embedded broker acknowledges records of a deleted topic; run with --broker apache")
    kept, lost = topic(settings, "v1"), topic(settings, "v2")
    await producer.send([OutRecord(name, b"%d" % n, b"before", []) for name in (kept, lost) for n in range(10)])
    await delete(settings, lost)
    failing = asyncio.create_task(outcomes_of(producer, [OutRecord(lost, b"%d" % n, b"x", []) for n in range(10)]))
    sent = 0
    while not failing.done():
        # Each in its own time: none waits for the topic that is gone.
        assert await producer.send_each([OutRecord(kept, b"k", b"meanwhile", [])]) == [None]
        sent += 1
    assert {type(error) for error in failing.result()} == {TopicMissingError}
    assert sent > 10
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
    after = [OutRecord(lost, b"%d" % n, b"after", []) for n in range(10)]
    async with asyncio.timeout(WAIT_S):
        while await outcomes_of(producer, after) != [None] * 10:
            pass
    assert b"after" in await values(settings, lost)


async def test_a_record_over_the_limit_of_its_topic_is_refused_alone(
    broker: Broker, settings: Settings, producer: BatchProducer
) -> None:
    if broker.is_embedded:
        pytest.skip("the embedded broker heeds no max.message.bytes; run with --broker apache")
    name = topic(settings, "v1")
    await limit(settings, name, SMALL_BYTES)
    # Together they are far over the limit, each but one is under it.
    records = [OutRecord(name, b"%d" % n, b"%d" % n * 1_000, []) for n in range(60)]
    records.insert(30, OutRecord(name, b"large", b"L" * (SMALL_BYTES + 1), []))
    outcomes = await outcomes_of(producer, records)
    refused = outcomes.pop(30)
    assert isinstance(refused, PayloadTooLargeError)
    assert str(SMALL_BYTES) in str(refused)
    assert refused.limit_bytes == SMALL_BYTES
    assert outcomes == [None] * 60
    assert sorted(set(await values(settings, name))) == sorted(b"%d" % n * 1_000 for n in range(60))
    # The largest that fits, with the frame of its batch, still does.
    assert await outcomes_of(producer, [OutRecord(name, b"k", b"m" * (SMALL_BYTES - 100), [])]) == [None]


async def test_a_record_that_its_topic_finds_invalid_is_refused_alone(
    broker: Broker, settings: Settings, producer: BatchProducer
) -> None:
    if broker.is_embedded:
        pytest.skip("the embedded broker looks at no timestamp; run with --broker apache")
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # noqa: PLC0415 - as above

    name = topic(settings, "v1")
    admin = make_admin(settings.kafka)
    await admin.start()
    configs = {"message.timestamp.after.max.ms": "1000"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])
    await admin.close()
    records = [OutRecord(name, b"k", b"%d" % n, [], timestamp_ms=None) for n in range(20)]
    records.insert(7, OutRecord(name, b"k", b"late", [], timestamp_ms=4_000_000_000_000))
    outcomes = await outcomes_of(producer, records)
    refused = outcomes.pop(7)
    assert refused is not None
    assert refused.code == "record_refused"
    assert outcomes == [None] * 20
    assert set(await values(settings, name)) == {b"%d" % n for n in range(20)}

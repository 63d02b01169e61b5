"""What our Kafka parts promise, on whichever broker `--broker` says."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from control_plane.local.hop_progress import committed_and_end
from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.traffic_split import Split
from inferlane.errors import PayloadTooLargeError
from inferlane.runtime import compacted_table
from inferlane.runtime.catalog_table import CatalogFollower, CatalogTable, publish_entry, read_catalog_topic
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_producer, record_limit_bytes
from inferlane.runtime.kafka.consumer import FetchedBatch, LaneConsumer
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.record_writer import CODECS
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.split_table import SplitFollower, SplitTable, publish_split
from tests.support.brokers import Broker
from tests.support.fakes.entries import make_entry
from tests.support.fakes.foreign import OddName, python_builder

# A group that lost a member waits for its session to end, and machines that do much else take their time.
pytestmark = pytest.mark.timeout(300)

NAMES = Names()
TOPIC = NAMES.work_topic("iris", "v1", Lane.REQUESTS)
GROUP = "inferlane.contract"
WAIT_S = 120.0
# Takes what there is, says so, and never finishes it.
TAKER = f"""
import asyncio
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.clients import make_producer
from inferlane.runtime.kafka.consumer import LaneConsumer
async def main():
    consumer = LaneConsumer(load_settings().kafka, topic="{TOPIC}", group="{GROUP}")
    await consumer.start()
    while await consumer.fetch(max_records=100, timeout_s=1) is None:
        pass
    print("taken", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


MANY = 250


@pytest.fixture
async def settings(broker: Broker) -> Settings:
    settings = broker.settings(
        ingress_partitions=1, work_partitions=2, max_body_bytes=256 * 1024, max_result_bytes=1024, drain_deadline_s=60.0
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    return settings


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[BatchProducer]:
    producer = BatchProducer(settings.kafka)
    await producer.start()
    yield producer
    await producer.close()


@asynccontextmanager
async def consuming(settings: Settings) -> AsyncIterator[LaneConsumer]:
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group=GROUP)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.close()


def numbered(first: int, last: int) -> list[OutRecord]:
    """Records whose keys spread over both partitions."""
    return [OutRecord(TOPIC, b"key-%d" % n, b"%d" % n, [("ce_id", b"%d" % n)]) for n in range(first, last)]


def values(records: Sequence[ConsumerRecord]) -> list[int]:
    return sorted(int(record.value) for record in records)


async def take_until(consumer: LaneConsumer, count: int) -> list[FetchedBatch]:
    """FetchedBatch, and finish nothing, until so many records are there."""
    takes: list[FetchedBatch] = []
    async with asyncio.timeout(WAIT_S):
        while sum(len(take.records) for take in takes) < count:
            take = await consumer.fetch(max_records=100, timeout_s=1)
            takes += [take] if take is not None else []
    return takes


def records_of(takes: Sequence[FetchedBatch]) -> list[ConsumerRecord]:
    return [record for take in takes for record in take.records]


async def committed(settings: Settings) -> int:
    """The sum of what the group committed."""
    count, _ = await committed_and_end(settings.kafka, TOPIC, GROUP)
    return count


async def test_reading_to_the_end_finds_every_record_of_a_large_last_batch(
    settings: Settings, producer: BatchProducer
) -> None:
    """Guards the end that `_take` corrects: without it Tansu's ends hide all but the first take of this batch."""
    since_s = time.time() - 60
    await producer.send([OutRecord(TOPIC, b"one key", b"%d" % n, []) for n in range(MANY)])
    partitions = [TopicPartition(TOPIC, partition) for partition in range(settings.kafka.work_partitions)]
    read = [record async for batch in read_since(settings.kafka, partitions, since_s=since_s) for record in batch]
    assert [int(record.value) for record in read] == list(range(MANY))


async def test_what_was_acknowledged_is_taken_whole_and_in_the_order_of_its_partition(
    settings: Settings, producer: BatchProducer
) -> None:
    sent = [
        OutRecord(TOPIC, b"key-%d" % (n % 10), b"%d" % n, [("ce_id", b"%d" % n), ("none", b"")], timestamp_ms=1000 + n)
        for n in range(50)
    ]
    await producer.send(sent)
    async with consuming(settings) as consumer:
        found = records_of(await take_until(consumer, 50))
    assert values(found) == list(range(50))
    assert {record.partition for record in found} == {0, 1}
    for record in found:
        out = sent[int(record.value)]
        assert (record.key, list(record.headers), record.timestamp) == (out.key, out.headers, out.timestamp_ms)
    for key in {record.key for record in found}:
        of_key = [int(record.value) for record in found if record.key == key]
        assert of_key == sorted(of_key)


@pytest.mark.parametrize("compression_type", list(CODECS))
async def test_small_requests_that_go_together_are_read_as_they_were_sent(
    settings: Settings, compression_type: str
) -> None:
    kafka = settings.kafka.model_copy(update={"compression_type": compression_type})
    headers = [("ce_specversion", b"1.0"), ("content-type", b"application/json")]
    sent = [
        OutRecord(TOPIC, b"key-%d" % n, b"%d" % n, [("ce_id", b"%d" % n), *headers], timestamp_ms=1000 + n, max_run=64)
        for n in range(50)
    ]
    producer = BatchProducer(kafka)
    await producer.start()
    try:
        # The connection that a first record opens lets the others go in one batch.
        await producer.send(sent[:1])
        await producer.send(sent[1:])
    finally:
        await producer.close()
    async with consuming(settings) as consumer:
        found = records_of(await take_until(consumer, 50))
    assert values(found) == list(range(50))
    for record in found:
        out = sent[int(record.value)]
        assert (record.key, list(record.headers), record.timestamp) == (out.key, out.headers, out.timestamp_ms)


async def test_nothing_is_committed_past_unfinished_work(settings: Settings, producer: BatchProducer) -> None:
    async with consuming(settings) as consumer:
        await producer.send(numbered(0, 10))
        first = await take_until(consumer, 10)
        await producer.send(numbered(10, 20))
        second = await take_until(consumer, 10)
        for take in second:
            consumer.finish(take)
    assert await committed(settings) == 0
    async with consuming(settings) as consumer:
        again = await take_until(consumer, 20)
        assert values(records_of(again)) == values(records_of(first) + records_of(second)) == list(range(20))
        for take in again:
            consumer.finish(take)
    assert await committed(settings) == 20


async def test_what_is_finished_is_not_delivered_again(settings: Settings, producer: BatchProducer) -> None:
    await producer.send(numbered(0, 10))
    async with consuming(settings) as consumer:
        for take in await take_until(consumer, 10):
            consumer.finish(take)
    await producer.send(numbered(10, 12))
    async with consuming(settings) as consumer:
        assert values(records_of(await take_until(consumer, 2))) == [10, 11]


async def test_work_of_a_killed_consumer_is_delivered_again(
    broker: Broker, settings: Settings, producer: BatchProducer
) -> None:
    await producer.send(numbered(0, 10))
    taker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        TAKER,
        env=os.environ | broker.environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert taker.stdout is not None
        async with asyncio.timeout(WAIT_S):
            # Its log lines come first.
            while await taker.stdout.readline() != b"taken\n":
                assert not taker.stdout.at_eof()
    finally:
        taker.send_signal(signal.SIGKILL)
        await taker.wait()
    async with consuming(settings) as consumer:
        assert values(records_of(await take_until(consumer, 10))) == list(range(10))


async def test_a_rebalance_hands_over_what_is_finished_and_nothing_twice(
    settings: Settings, producer: BatchProducer
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(consuming(settings))
        await producer.send(numbered(0, 20))
        taken = await take_until(first, 20)
        second = LaneConsumer(settings.kafka, topic=TOPIC, group=GROUP)
        joining = asyncio.create_task(second.start())
        stack.push_async_callback(second.close)
        await joining
        # The first must give its partitions up, and may not before its work is done.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await has_joined(second)
        for take in taken:
            first.finish(take)
        async with asyncio.timeout(WAIT_S):
            await has_joined(second)
        await producer.send(numbered(20, 40))
        found = await take_both(first, second, 20)
    assert values(found) == list(range(20, 40))


async def has_joined(consumer: LaneConsumer) -> None:
    await consumer._assigned.wait()


async def take_both(first: LaneConsumer, second: LaneConsumer, count: int) -> list[ConsumerRecord]:
    """What two members of a group take between them."""
    found: list[ConsumerRecord] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            for consumer in (first, second):
                take = await consumer.fetch(max_records=100, timeout_s=0.5)
                if take is not None:
                    found += take.records
                    consumer.finish(take)
    return found


async def test_a_record_over_the_limit_is_refused_and_one_of_the_limit_is_not(
    settings: Settings, producer: BatchProducer
) -> None:
    with pytest.raises(PayloadTooLargeError):
        await producer.send([OutRecord(TOPIC, b"", bytes(record_limit_bytes(settings.kafka)), [])])
    # Kafka refuses by the batch, whose frame is part of `record_limit_bytes`.
    largest = b"7".zfill(record_limit_bytes(settings.kafka) - 512)
    await producer.send([OutRecord(TOPIC, b"", largest, [])])
    async with consuming(settings) as consumer:
        (record,) = records_of(await take_until(consumer, 1))
    assert record.value == largest


async def test_splits_are_read_whole_and_followed(settings: Settings) -> None:
    for weight in (0.1, 0.2, 0.3):
        await publish_split(
            settings.kafka, settings.stack.names, Split(model="iris", weights={"v1": 1 - weight, "v2": weight})
        )
    table = SplitTable()
    follower = SplitFollower(settings.kafka, settings.stack.names, table)
    await follower.start()
    try:
        found = table.get("iris")
        assert found is not None
        assert found.weights["v2"] == 0.3
        offset = await publish_split(settings.kafka, settings.stack.names, Split(model="digits", weights={"v1": 1.0}))
        await table.wait_applied(offset, timeout_s=WAIT_S)
        assert table.get("digits") is not None
        assert follower.is_running
    finally:
        await follower.close()


async def test_the_catalogue_is_read_whole_and_followed_and_its_topic_may_come_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacted_table, "_LOOK_AGAIN_S", 0.01)
    early, table = settings.changed(prefix="early"), CatalogTable()
    follower = CatalogFollower(early.kafka, early.stack.names, table)
    await follower.start()
    try:
        assert (dict(table.entries), follower.is_running) == ({}, True)
        await create_topics(early.kafka, early.stack.names, early.webhooks, [])
        offset = await publish_entry(early.kafka, early.stack.names, make_entry("fraud", "v1"))
        await table.wait_applied(offset, timeout_s=WAIT_S)
        assert list(table.entries) == ["fraud/v1"]
        await publish_entry(early.kafka, early.stack.names, make_entry("fraud", "v2"))
        await follower.catch_up(timeout_s=WAIT_S)
        assert table.get("fraud", "v2") is not None
        read = await read_catalog_topic(early.kafka, early.stack.names)
        assert read.entries == table.entries
    finally:
        await follower.close()


async def test_a_record_with_a_header_name_that_is_no_text_stops_nobody(
    settings: Settings, producer: BatchProducer
) -> None:
    await producer.send(numbered(0, 4))
    # aiokafka's idempotent producer takes no other builder than its own.
    async with make_producer(settings.changed(kafka_idempotence=False).kafka) as foreign:
        for partition in (0, 1):
            batch = foreign.create_batch()
            batch._builder = python_builder()
            for n in (4, 5, 6):
                name = OddName(b"\xff\xfe") if n == 5 else OddName(b"good")
                batch.append(key=b"odd", value=b"%d" % (n + 3 * partition), timestamp=None, headers=[(name, b"1")])
            await asyncio.wait_for(await foreign.send_batch(batch, TOPIC, partition=partition), WAIT_S)
    await producer.send(numbered(10, 14))
    async with consuming(settings) as consumer:
        takes = await take_until(consumer, 14)
        for take in takes:
            consumer.finish(take)
    found = records_of(takes)
    assert values(found) == list(range(14))
    assert {record.headers[0][0] for record in found if int(record.value) in {5, 8}} == {"\\xff\\xfe"}
    assert await committed(settings) == 14


async def test_topics_are_created_once(settings: Settings) -> None:
    assert await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")]) == ()
    assert await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v2")]) == (
        "inferlane.iris.v2.requests",
        "inferlane.iris.v2.bulk",
    )


async def test_the_producer_is_idempotent_where_the_broker_can_be(
    broker: Broker, settings: Settings, producer: BatchProducer
) -> None:
    if broker.is_embedded:
        pytest.skip("the embedded broker has no InitProducerId; run with --broker apache")
    assert settings.kafka.idempotence
    for first in range(0, 200, 40):
        await asyncio.gather(*(producer.send(numbered(n, n + 10)) for n in range(first, first + 40, 10)))
    manager = producer._producer.current._txn_manager
    assert manager.has_pid()
    assert sum(manager._sequence_numbers.values()) == 200

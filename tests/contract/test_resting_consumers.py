"""A consumer that rests between fetches is woken by a producer beside it, and misses nothing that comes without one."""

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.runtime import compacted_table
from inferlane.runtime.compacted_table import CompactedTable, TableFollower
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.arrivals import ArrivalListener
from inferlane.runtime.kafka.clients import make_producer
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.table_writes import publish_to_table
from tests.support.brokers import Broker
from tests.support.lane_records import WAIT_S, values

pytestmark = pytest.mark.timeout(300)

NAMES = Names()
TOPIC = NAMES.work_topic("iris", "v1", Lane.REQUESTS)
# Longer than the test may take: what is found was found by a signal.
REST_MS = 1_000_000
ROUNDS = 200


@pytest.fixture
def arrivals_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The node of each fetch that was sent."""
    nodes: list[int] = []
    request = Fetcher._proc_fetch_request

    async def counted(fetcher: Fetcher, assignment: Any, node: int, asked: Any) -> Any:
        nodes.append(node)
        return await request(fetcher, assignment, node, asked)

    monkeypatch.setattr(Fetcher, "_proc_fetch_request", counted)
    return nodes


def names_in(folder: Path) -> list[str]:
    """What lies in the folder."""
    return [path.name for path in folder.iterdir()]


async def consuming(settings: Settings) -> LaneConsumer:
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group="inferlane.arrivals")
    await consumer.start()
    return consumer


async def test_a_resting_consumer_gets_what_a_producer_beside_it_writes_without_a_fetch(
    broker: Broker, arrivals_dir: Path, fetches: list[int]
) -> None:
    settings = broker.settings(
        ingress_partitions=1,
        work_partitions=2,
        arrivals_dir=arrivals_dir,
        kafka_wakes_fetches=False,
        fetch_max_wait_ms=REST_MS,
        idle_fetch_max_wait_ms=REST_MS,
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    producer = BatchProducer(settings.kafka)
    await producer.start()
    consumer = await consuming(settings)
    try:
        for number in range(20):
            value = b"%d" % number
            # The first finds a consumer that may have no partition yet, the others one that rests.
            await producer.send([OutRecord(TOPIC, value, value, [])])
            assert await values(consumer, 1) == [value]
            if number < 5:  # until its partitions are assigned, and found read
                fetches.clear()
        assert not fetches
    finally:
        await consumer.close()
        await producer.close()
    assert not names_in(arrivals_dir)


async def test_what_several_producers_write_is_is_returned_once(broker: Broker, arrivals_dir: Path) -> None:
    """Two send signals and one does not, all into the same partitions."""
    settings = broker.settings(ingress_partitions=1, work_partitions=2, arrivals_dir=arrivals_dir)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    producers = [BatchProducer(settings.kafka) for _ in range(2)]
    foreign = make_producer(settings.kafka)
    consumer = await consuming(settings)
    for producer in producers:
        await producer.start()
    await foreign.start()

    async def write(number: int, producer: BatchProducer) -> None:
        for at in range(ROUNDS):
            value = b"%d/%d" % (number, at)
            await producer.send([OutRecord(TOPIC, value, value, [])])

    async def write_foreign() -> None:
        for at in range(0, ROUNDS, 20):
            await foreign.send_and_wait(TOPIC, b"foreign/%d" % at)
            await asyncio.sleep(0.05)

    try:
        await producers[0].send([OutRecord(TOPIC, b"first", b"first", [])])
        assert await values(consumer, 1) == [b"first"]
        expected = {b"%d/%d" % (number, at) for number in range(2) for at in range(ROUNDS)}
        expected |= {b"foreign/%d" % at for at in range(0, ROUNDS, 20)}
        writing = asyncio.gather(*(write(*one) for one in enumerate(producers)), write_foreign())
        found = await values(consumer, len(expected))
        await writing
        assert sorted(found) == sorted(expected)
    finally:
        await consumer.close()
        for producer in producers:
            await producer.close()
        await foreign.stop()


async def test_beside_a_broker_that_wakes_a_fetch_there_are_fewer_fetches_than_batches_and_none_is_missed(
    broker: Broker, arrivals_dir: Path, fetches: list[int]
) -> None:
    """One producer hands its batches on, the other writes between them."""
    settings = broker.settings(
        ingress_partitions=1, work_partitions=1, arrivals_dir=arrivals_dir, kafka_wakes_fetches=True
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    producer, foreign = BatchProducer(settings.kafka), make_producer(settings.kafka)
    await producer.start()
    await foreign.start()
    consumer = await consuming(settings)
    try:
        await producer.send([OutRecord(TOPIC, b"first", b"first", [])])
        assert await values(consumer, 1) == [b"first"]
        fetches.clear()
        for at in range(ROUNDS):
            value = b"%d" % at
            if at % 50 == 25:
                await foreign.send_and_wait(TOPIC, value)
            else:
                await producer.send([OutRecord(TOPIC, value, value, [])])
            assert await values(consumer, 1) == [value]
        assert len(fetches) < ROUNDS
    finally:
        await consumer.close()
        await producer.close()
        await foreign.stop()


async def test_records_of_a_producer_that_sends_no_signal_are_found_after_the_rest(
    broker: Broker, arrivals_dir: Path
) -> None:
    settings = broker.settings(ingress_partitions=1, work_partitions=2, arrivals_dir=arrivals_dir)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    foreign = make_producer(settings.kafka)
    await foreign.start()
    consumer = await consuming(settings)
    try:
        for number in range(5):
            await foreign.send_and_wait(TOPIC, b"%d" % number)
            assert await values(consumer, 1) == [b"%d" % number]
    finally:
        await consumer.close()
        await foreign.stop()


async def test_a_consumer_that_rests_turns_only_for_its_fetches(
    broker: Broker, arrivals_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the poll of the fetcher: with that of aiokafka it turned five times a second."""
    settings = broker.settings(
        work_partitions=2, arrivals_dir=arrivals_dir, kafka_wakes_fetches=False, fetch_max_wait_ms=1_000
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    turns: list[int] = []
    turn, rest = Fetcher._get_actions_per_node, ArrivalListener.wait
    rests = asyncio.Semaphore(0)

    def counted_turn(fetcher: Fetcher, assignment: Any) -> Any:
        turns.append(1)
        return turn(fetcher, assignment)

    async def counted_rest(listener: ArrivalListener, wait_s: float) -> None:
        await rest(listener, wait_s)
        rests.release()

    monkeypatch.setattr(Fetcher, "_get_actions_per_node", counted_turn)
    monkeypatch.setattr(ArrivalListener, "wait", counted_rest)
    consumer = await consuming(settings)
    try:
        async with asyncio.timeout(WAIT_S):
            await rests.acquire()
            turns.clear()
            for _ in range(3):
                await rests.acquire()
        # After each rest one turn for the answer of the fetch.
        assert len(turns) <= 2 * 3
    finally:
        await consumer.close()


class Values(CompactedTable):
    """The last value of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, bytes | None] = {}

    def in_force(self) -> Mapping[str, bytes]:
        return {key: value for key, value in self.values.items() if value is not None}

    def put(self, key: str, value: bytes | None) -> None:
        self.values[key] = value


async def test_a_table_that_rests_gets_what_is_published_and_misses_nothing_when_it_is_read_to_its_end(
    broker: Broker, arrivals_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacted_table, "_REST_MS", REST_MS)
    settings = broker.settings(arrivals_dir=arrivals_dir, kafka_wakes_fetches=False)
    topic = settings.stack.names.splits
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
    table = Values()
    follower = TableFollower(settings.kafka, table, topic=topic)
    foreign = make_producer(settings.kafka)
    await foreign.start()
    await follower.start()
    try:
        for number in range(5):
            value = b"%d" % number
            offset = await publish_to_table(settings.kafka, topic, key="told", value=value)
            await table.wait_applied(offset, timeout_s=WAIT_S)
            assert table.values["told"] == value
            await foreign.send_and_wait(topic, key=b"untold", value=value, partition=0)
            await follower.read_to_end(timeout_s=WAIT_S)
            assert table.values["untold"] == value
    finally:
        await follower.close()
        await foreign.stop()
    assert not names_in(arrivals_dir)

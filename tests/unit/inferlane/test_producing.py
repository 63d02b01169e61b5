"""The producer that every process shares, with a fake of aiokafka's in its place."""

import asyncio
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber

from inferlane.contracts.kafka_record import OutRecord
from inferlane.errors import UnavailableError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka import producer_connection
from inferlane.runtime.kafka.producer import BatchProducer

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = OutRecord("t", b"k", b"v", [])


class FakeBatch:
    def append(self, **_record: Any) -> object:
        return object()

    def size(self) -> int:
        return 100


class FakeCluster:
    """What the client knows of the topics; `grow` is what a refresh of the metadata brings."""

    def __init__(self) -> None:
        self.partitions = 1
        self.missing: set[str] = set()
        self._listeners: list[Callable[[FakeCluster], None]] = []

    def add_listener(self, listener: "Callable[[FakeCluster], None]") -> None:
        self._listeners.append(listener)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return None if topic in self.missing else set(range(self.partitions))

    def grow(self, partitions: int) -> None:
        self.partitions = partitions
        for listener in self._listeners:
            listener(self)


class FakeClient:
    """Asks the broker."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()

    async def fetch_all_metadata(self) -> FakeCluster:
        return self.cluster


class FakeProducer:
    """aiokafka's producer as far as we call it; every batch ends in `error` if there is one."""

    def __init__(self, error: KafkaError | None) -> None:
        self._error = error
        self.partitions: set[int] = set()
        self.is_running = False
        self.client = FakeClient()

    async def start(self) -> None:
        self.is_running = True

    async def stop(self) -> None:
        self.is_running = False

    def create_batch(self) -> FakeBatch:
        return FakeBatch()

    def send_at_once(self, _builders: object) -> None:
        """Refuse, as the real one does while another request is under way."""

    async def send_batch(self, _batch: FakeBatch, _topic: str, *, partition: int) -> "asyncio.Future[int]":
        sent = asyncio.get_running_loop().create_future()
        if self._error:
            sent.set_exception(self._error)
        else:
            self.partitions.add(partition)
            sent.set_result(partition)
        return sent


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeProducer]:
    """The producers that were made, of which the first is refused by the broker for its sequence."""
    producers: list[FakeProducer] = []

    def make(_settings: object) -> FakeProducer:
        producers.append(FakeProducer(None if producers else OutOfOrderSequenceNumber()))
        return producers[-1]

    monkeypatch.setattr(producer_connection, "make_producer", make)
    return producers


async def test_a_producer_that_lost_its_sequence_is_replaced_at_the_next_send(made: list[FakeProducer]) -> None:
    """Guards `_renew`: taken out, every later send of the process fails and its clients wait for ever."""
    producer = BatchProducer(load_settings().kafka)
    await producer.start()
    with pytest.raises(UnavailableError):
        await producer.send([RECORD])
    await asyncio.gather(*(producer.send([RECORD]) for _ in range(5)))
    assert [fake.is_running for fake in made] == [False, True]
    await producer.close()
    assert [fake.is_running for fake in made] == [False, False]


async def test_a_producer_that_is_closed_while_another_takes_its_place_leaves_none_connected(
    made: list[FakeProducer], monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting, may_connect = asyncio.Event(), asyncio.Event()
    start = FakeProducer.start

    async def start_late(self: FakeProducer) -> None:
        if len(made) > 1:
            connecting.set()
            await may_connect.wait()
        await start(self)

    monkeypatch.setattr(FakeProducer, "start", start_late)
    producer = BatchProducer(load_settings().kafka)
    await producer.start()
    with pytest.raises(UnavailableError):
        await producer.send([RECORD])
    sending = asyncio.create_task(producer.send([RECORD]))
    await connecting.wait()
    closing = asyncio.create_task(producer.close())
    await asyncio.sleep(0)
    may_connect.set()
    await asyncio.gather(sending, closing, return_exceptions=True)
    assert [fake.is_running for fake in made] == [False, False]


async def test_a_passing_error_keeps_the_producer(made: list[FakeProducer]) -> None:
    producer = BatchProducer(load_settings().kafka)
    await producer.start()
    made[0]._error = KafkaError("away")
    with pytest.raises(UnavailableError):
        await producer.send([RECORD])
    made[0]._error = None
    await producer.send([RECORD])
    assert len(made) == 1
    await producer.close()


@pytest.mark.parametrize(("max_run", "partitions"), [(1_000, 1), (2, 3), (0, 3)], ids=str)
async def test_records_without_an_order_keep_company(
    made: list[FakeProducer], monkeypatch: pytest.MonkeyPatch, max_run: int, partitions: int
) -> None:
    used: list[int] = []

    original = FakeProducer.send_batch

    async def send_batch(self: FakeProducer, batch: FakeBatch, topic: str, *, partition: int) -> "asyncio.Future[int]":
        used.append(partition)
        return await original(self, batch, topic, partition=partition)

    made.append(FakeProducer(None))
    monkeypatch.setattr(FakeProducer, "send_batch", send_batch)
    producer = BatchProducer(load_settings().kafka)
    await producer.start()
    made[-1].client.cluster.partitions = 4
    await producer.send([OutRecord("t", b"%d" % key, b"v", [], max_run=max_run) for key in range(5)])
    assert len(used) == len(set(used)) == partitions
    last = used[-1]
    used.clear()
    await producer.send([OutRecord("t", b"1", b"v", [], max_run=max_run)])
    # Of a key it is always the same; without an order not the last one, which may still be under way.
    assert used == [crc32(b"1") % 4] if not max_run else used != [last]


async def test_partitions_that_are_added_get_records_after_the_next_look_at_the_metadata(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards `_note_partitions`: taken out, running producers never write to them."""
    fake = FakeProducer(None)
    monkeypatch.setattr(producer_connection, "make_producer", lambda _settings: fake)
    producer = BatchProducer(load_settings().kafka)
    await producer.start()
    records = [OutRecord("t", b"key-%d" % number, b"v", []) for number in range(50)]
    await producer.send(records)
    assert fake.partitions == {0}
    fake.client.cluster.grow(4)
    await producer.send(records)
    assert fake.partitions == {0, 1, 2, 3}
    await producer.close()

"""The producer that every process shares, with a fake of aiokafka's in its place."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber

from inferlane.config import load_settings
from inferlane.errors import UnavailableError
from inferlane.kafka import producing
from inferlane.kafka.producing import BatchProducer, OutRecord

RECORD = OutRecord("t", b"k", b"v", [])


class FakeBatch:
    def append(self, **_record: Any) -> object:
        return object()


class FakeProducer:
    """aiokafka's producer as far as we call it; every batch ends in `error` if there is one."""

    def __init__(self, error: KafkaError | None) -> None:
        self._error = error
        self.is_running = False

    async def start(self) -> None:
        self.is_running = True

    async def stop(self) -> None:
        self.is_running = False

    async def partitions_for(self, _topic: str) -> set[int]:
        return {0}

    def create_batch(self) -> FakeBatch:
        return FakeBatch()

    async def send_batch(self, _batch: FakeBatch, _topic: str, *, partition: int) -> "asyncio.Future[int]":
        sent = asyncio.get_running_loop().create_future()
        if self._error:
            sent.set_exception(self._error)
        else:
            sent.set_result(partition)
        return sent


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeProducer]:
    """The producers that were made, of which the first is refused by the broker for its sequence."""
    producers: list[FakeProducer] = []

    def make(_settings: object) -> FakeProducer:
        producers.append(FakeProducer(None if producers else OutOfOrderSequenceNumber()))
        return producers[-1]

    monkeypatch.setattr(producing, "make_producer", make)
    return producers


async def test_a_producer_that_lost_its_sequence_is_replaced_at_the_next_send(made: list[FakeProducer]) -> None:
    """Guards `_renew`: taken out, every later send of the process fails and its clients wait for ever."""
    producer = BatchProducer(load_settings())
    await producer.start()
    with pytest.raises(UnavailableError):
        await producer.send([RECORD])
    await asyncio.gather(*(producer.send([RECORD]) for _ in range(5)))
    assert [fake.is_running for fake in made] == [False, True]
    await producer.close()
    assert [fake.is_running for fake in made] == [False, False]


async def test_a_passing_error_keeps_the_producer(made: list[FakeProducer]) -> None:
    producer = BatchProducer(load_settings())
    await producer.start()
    made[0]._error = KafkaError("away")
    with pytest.raises(UnavailableError):
        await producer.send([RECORD])
    made[0]._error = None
    await producer.send([RECORD])
    assert len(made) == 1
    await producer.close()

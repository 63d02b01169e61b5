"""Requests on their way to the topic: each is answered once, also when the API stops before it was sent."""

import asyncio
from collections.abc import Sequence

import pytest

import producer_api.predict.enqueuer as enqueuer_module
from inferlane.contracts.kafka_record import OutRecord
from inferlane.errors import InferlaneError, OverloadedError
from producer_api.predict.enqueuer import Enqueuer, gathered_records

RECORD = OutRecord("t", b"k", b"value", [])


class StuckProducer:
    """A broker that is away: a send begins and never ends."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()

    async def send_each(self, _records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        self.has_begun.set()
        await asyncio.Event().wait()
        return []


async def test_closing_answers_what_is_under_way_and_what_waits_behind_it() -> None:
    """Guards the end of `close`: without it who waits behind the batch that is under way is never told."""
    producer = StuckProducer()
    enqueuer = Enqueuer(producer, max_pending=10, max_pending_bytes=1_000)  # type: ignore[arg-type]  # as far as it is used
    await enqueuer.start()
    answers: dict[str, InferlaneError | None] = {}
    enqueuer.enqueue(RECORD, lambda error: answers.update(sent=error))
    async with asyncio.timeout(10):
        await producer.has_begun.wait()
    enqueuer.enqueue(RECORD, lambda error: answers.update(waiting=error))
    await enqueuer.close()
    assert {name: type(error) for name, error in answers.items()} == {
        "sent": OverloadedError,
        "waiting": OverloadedError,
    }
    assert enqueuer._pending_bytes == 0


class NotingProducer:
    """A broker that acknowledges at once; each send is noted by its number of records."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[int] = asyncio.Queue()

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        self.sent.put_nowait(len(records))
        return [None] * len(records)


@pytest.mark.parametrize(
    ("last_records", "calls_under_way", "expected"),
    [
        (1, 64, 1),  # no load, whatever waits: a request alone is sent at once
        (3, 64, 1),
        (4, 64, 8),  # twice the last batch, so that batches grow as long as more come
        (16, 64, 21),
        (60, 64, 21),  # a third of what is under way: three batches are on their way at one time
        (8, 9, 4),
        (200, 3_000, 400),
    ],
)
def test_a_batch_waits_for_more_only_after_one_that_shows_load(
    last_records: int, calls_under_way: int, expected: int
) -> None:
    assert gathered_records(last_records, calls_under_way) == expected


async def test_under_load_records_go_together_once_as_many_as_expected_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time limit is out of reach here, so that only the number of records can end the wait."""
    monkeypatch.setattr(enqueuer_module, "_GATHER_S", 3_600.0)
    producer = NotingProducer()
    enqueuer = _noting(producer, calls_under_way=30)
    await enqueuer.start()
    async with asyncio.timeout(10):
        _enqueue(enqueuer, 8)
        assert await producer.sent.get() == 8
        # One by one, each in a turn of the loop of its own, as calls come from many connections.
        for _ in range(10):
            assert producer.sent.empty()
            _enqueue(enqueuer, 1)
            await asyncio.sleep(0)
        assert await producer.sent.get() == 10
    await enqueuer.close()


async def test_a_batch_that_does_not_fill_goes_after_a_few_milliseconds() -> None:
    producer = NotingProducer()
    enqueuer = _noting(producer, calls_under_way=300)
    await enqueuer.start()
    async with asyncio.timeout(10):
        _enqueue(enqueuer, 8)
        assert await producer.sent.get() == 8
        _enqueue(enqueuer, 1)
        assert await producer.sent.get() == 1
        # That one was alone, so the load is over: the next is not held at all.
        assert enqueuer._gathers == 1
    await enqueuer.close()


def _noting(producer: NotingProducer, *, calls_under_way: int) -> Enqueuer:
    return Enqueuer(
        producer,  # type: ignore[arg-type]  # as far as it is used
        max_pending=100,
        max_pending_bytes=10_000,
        calls_under_way=lambda: calls_under_way,
    )


def _enqueue(enqueuer: Enqueuer, records: int) -> None:
    for _ in range(records):
        enqueuer.enqueue(RECORD, lambda _: None)

"""Requests on their way to the topic: each is answered once, also when the API stops before it was sent."""

import asyncio
from collections.abc import Sequence

import pytest

from inferlane.contracts.kafka_record import OutRecord
from inferlane.errors import InferlaneError, OverloadedError
from producer_api.predict.enqueuer import Enqueuer

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
    """A broker that takes all at once, and what it was sent."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.has_sent = asyncio.Event()

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        self.batches.append(len(records))
        self.has_sent.set()
        return [None] * len(records)


@pytest.mark.parametrize(("turns", "batches"), [(1, [1]), (3, [3])])
async def test_requests_that_come_turn_after_turn_are_sent_together(turns: int, batches: list[int]) -> None:
    """Clients that were answered together send again together, over a few turns of the event loop."""
    producer = NotingProducer()
    enqueuer = Enqueuer(producer, max_pending=10, max_pending_bytes=1_000)  # type: ignore[arg-type]  # as above
    await enqueuer.start()
    for _ in range(turns):
        enqueuer.enqueue(RECORD, lambda _: None)
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await producer.has_sent.wait()
    await enqueuer.close()
    assert producer.batches == batches


async def test_a_stream_of_requests_that_never_ends_is_sent() -> None:
    """Guards the limit of turns: at a high rate every turn brings a request."""
    producer = NotingProducer()
    enqueuer = Enqueuer(producer, max_pending=10_000, max_pending_bytes=1_000_000)  # type: ignore[arg-type]  # as above
    await enqueuer.start()
    for _ in range(300):
        enqueuer.enqueue(RECORD, lambda _: None)
        await asyncio.sleep(0)
    await enqueuer.close()
    assert len(producer.batches) > 10
    assert max(producer.batches) < 20


async def test_a_fault_in_one_call_leaves_no_other_without_its_outcome() -> None:
    """Guards the `try` around each callback: the first fault ended the task, and with it the process."""
    producer = NotingProducer()
    enqueuer = Enqueuer(producer, max_pending=10, max_pending_bytes=1_000)  # type: ignore[arg-type]  # as far as it is used
    await enqueuer.start()
    told: list[str] = []

    def fails(_error: InferlaneError | None) -> None:
        raise asyncio.InvalidStateError

    for number in range(2):
        all_told = asyncio.Event()
        enqueuer.enqueue(RECORD, fails)
        enqueuer.enqueue(
            RECORD, lambda _error, name=f"batch {number}", event=all_told: (told.append(name), event.set())
        )
        async with asyncio.timeout(10):
            await all_told.wait()
    await enqueuer.close()
    assert told == ["batch 0", "batch 1"]
    assert producer.batches == [2, 2]

"""Writes to the work topics: each topic in its own order, independent of the others; on a fake sender."""

import asyncio
from collections.abc import Sequence

import pytest

from inferlane.contracts.kafka_record import OutRecord
from inferlane.errors import InferlaneError, TopicMissingError, UnavailableError
from inferlane.runtime.retry import Retrier
from router import destinations
from router.destinations import Destinations

WITHIN_S = 30.0


class FakeSender:
    """Topics that accept records, are unavailable, are missing, or do not respond until told to."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.gone: set[str] = set()
        self.silent: dict[str, asyncio.Event] = {}
        self.sent: list[tuple[str, bytes]] = []

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        outcomes: list[InferlaneError | None] = []
        for record in records:
            if record.topic in self.silent:
                await self.silent[record.topic].wait()
            if record.topic in self.gone:
                outcomes.append(TopicMissingError(f"no {record.topic}"))
            elif record.topic in self.away:
                outcomes.append(UnavailableError(f"{record.topic} is away"))
            else:
                self.sent.append((record.topic, record.value))
                outcomes.append(None)
        return outcomes


def record(topic: str, value: bytes) -> OutRecord:
    return OutRecord(topic, b"k", value, [])


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_topic_that_is_gone_is_refused_and_the_next_is_written() -> None:
    sender = FakeSender()
    sender.gone.add("gone")
    work = Destinations(sender, Retrier())
    (error,) = await work.write("gone", [record("gone", b"1")])
    assert isinstance(error, TopicMissingError)
    assert not work.is_failing("gone")
    assert await work.write("there", [record("there", b"1")]) == [None]


async def test_a_silent_topic_keeps_the_order_of_its_records_and_holds_no_other() -> None:
    sender = FakeSender()
    sender.silent["silent"] = asyncio.Event()
    work = Destinations(sender, Retrier())
    first = asyncio.create_task(work.write("silent", [record("silent", b"1")]))
    second = asyncio.create_task(work.write("silent", [record("silent", b"2")]))
    await settle()
    work.note_slow("silent")
    assert work.is_failing("silent")
    assert await work.write("there", [record("there", b"3")]) == [None]
    assert sender.sent == [("there", b"3")]
    sender.silent["silent"].set()
    async with asyncio.timeout(WITHIN_S):
        assert await first == await second == [None]
    assert sender.sent[1:] == [("silent", b"1"), ("silent", b"2")]
    assert not work.is_failing("silent")


async def test_a_topic_that_takes_nothing_for_long_is_given_up_only_while_others_take_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards `_is_hopeless`: an unavailable broker must not fail requests."""
    monkeypatch.setattr(destinations, "_PATIENCE_S", 0.0)
    sender = FakeSender()
    sender.away |= {"one", "two"}
    work = Destinations(sender, Retrier())
    one = asyncio.create_task(work.write("one", [record("one", b"1")]))
    two = asyncio.create_task(work.write("two", [record("two", b"2")]))
    done, _ = await asyncio.wait({one, two}, timeout=0.3)
    assert not done
    sender.away.remove("two")
    async with asyncio.timeout(WITHIN_S):
        assert await two == [None]
        (error,) = await one
    assert isinstance(error, UnavailableError)


async def test_a_failing_topic_that_holds_too_much_leaves_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "_MAX_PARKED_BYTES", 10)
    sender = FakeSender()
    sender.silent["silent"] = asyncio.Event()
    work = Destinations(sender, Retrier())
    assert work.has_room
    waiting = asyncio.create_task(work.write("silent", [record("silent", b"x" * 11)]))
    await settle()
    assert work.has_room
    work.note_slow("silent")
    assert not work.has_room
    sender.silent["silent"].set()
    await waiting
    assert work.has_room

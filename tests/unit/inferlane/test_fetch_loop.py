"""The loop that keeps fetches under way, on a broker whose answers the test gives."""

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import consumer as consumer_module
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from inferlane.runtime.kafka.fetch_loop import LoopedFetcher
from inferlane.runtime.kafka.fetcher import guard_fetches
from tests.support.fakes.batches import batch

LIMIT_S = 60.0
NODE = 1
ONE, TWO = (TopicPartition("topic", number) for number in range(2))


class Client:
    """What the fetcher asks of its client; each fetch waits for the test."""

    _metadata_max_age_ms = 300_000

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.cluster = SimpleNamespace(leader_for_partition=lambda _: NODE)
        self._fetches: asyncio.Queue[tuple[dict[int, int], asyncio.Future[Any]]] = asyncio.Queue()

    async def send(self, _node: int, request: Any) -> Any:
        asked = {part: position for _, parts in request.topics for part, position, _ in parts}
        answer = self._loop.create_future()
        self._fetches.put_nowait((asked, answer))
        return await answer

    async def next_fetch(self) -> tuple[dict[int, int], "asyncio.Future[Any]"]:
        """Return the positions that are asked for, and where the answer goes."""
        async with asyncio.timeout(LIMIT_S):
            return await self._fetches.get()

    @property
    def is_asked(self) -> bool:
        return not self._fetches.empty()


def answer(**partitions: bytes) -> Any:
    """These bytes for `p0`, `p1`."""
    parts = [(int(name[1:]), 0, 10**6, 10**6, 0, [], -1, bytes(raw)) for name, raw in partitions.items()]
    return SimpleNamespace(API_VERSION=11, topics=[("topic", parts)])


class Reading:
    """A fetcher that runs, and what it reads."""

    def __init__(self, *partitions: TopicPartition) -> None:
        guard_fetches(batch_limit_bytes=1_000_000)
        self.client = Client()
        self.subscription = SubscriptionState(loop=asyncio.get_running_loop())
        self.fetcher = consumer_module.Fetcher(self.client, self.subscription, isolation_level="read_committed")
        self.assign(*partitions)

    def assign(self, *partitions: TopicPartition) -> None:
        self.subscription.assign_from_user(partitions)
        for partition in partitions:
            self.subscription.subscription.assignment.state_value(partition).reset_to(0)
        # As the coordinator does.
        self.subscription._notify_assignment_waiters()

    async def values(self, timeout_s: float = LIMIT_S) -> dict[TopicPartition, list[bytes]]:
        found = await self.fetcher.fetched_records((), timeout=timeout_s)
        return {partition: [record.value for record in records] for partition, records in found.items()}


@pytest.fixture
async def reading() -> AsyncIterator[Reading]:
    made = Reading(ONE, TWO)
    yield made
    await made.fetcher.close()


async def test_records_reach_who_waits_and_the_next_fetch_asks_behind_them(reading: Reading) -> None:
    caller = asyncio.create_task(reading.values())
    asked, response = await reading.client.next_fetch()
    assert asked == {0: 0, 1: 0}
    response.set_result(answer(p0=batch(b"0", b"1"), p1=b""))
    assert await caller == {ONE: [b"0", b"1"]}
    asked, _ = await reading.client.next_fetch()
    assert asked == {0: 2, 1: 0}


async def test_a_fetch_that_found_nothing_is_followed_by_another(reading: Reading) -> None:
    _, response = await reading.client.next_fetch()
    response.set_result(answer(p0=b"", p1=b""))
    asked, _ = await reading.client.next_fetch()
    assert asked == {0: 0, 1: 0}


async def test_records_that_nobody_has_taken_are_not_asked_for_again(reading: Reading) -> None:
    _, response = await reading.client.next_fetch()
    response.set_result(answer(p0=batch(b"0"), p1=b""))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not reading.client.is_asked
    assert await reading.values() == {ONE: [b"0"]}
    asked, _ = await reading.client.next_fetch()
    assert asked == {0: 1, 1: 0}


async def test_a_caller_waits_no_longer_than_it_said(reading: Reading) -> None:
    async with asyncio.timeout(LIMIT_S):
        assert await reading.values(0.01) == {}


async def test_after_a_seek_the_next_fetch_asks_there_and_an_older_answer_counts_for_nothing(reading: Reading) -> None:
    _, response = await reading.client.next_fetch()
    reading.fetcher.seek_to(ONE, 7)
    response.set_result(answer(p0=batch(b"old"), p1=b""))
    asked, response = await reading.client.next_fetch()
    assert asked == {0: 7, 1: 0}
    response.set_result(answer(p0=batch(b"7", base=7), p1=b""))
    assert await reading.values() == {ONE: [b"7"]}


async def test_a_resumed_partition_is_asked_for_without_another_event(reading: Reading) -> None:
    reading.subscription.pause(ONE)
    _, response = await reading.client.next_fetch()
    response.set_result(answer(p0=b"", p1=b""))
    asked, response = await reading.client.next_fetch()
    assert asked == {1: 0}
    response.set_result(answer(p1=batch(b"0")))
    assert await reading.values() == {TWO: [b"0"]}
    reading.subscription.resume(ONE)
    asked, response = await reading.client.next_fetch()
    if 0 not in asked:
        # It was under way already.
        response.set_result(answer(p1=b""))
        asked, _ = await reading.client.next_fetch()
    assert asked == {0: 0, 1: 1}


async def test_what_is_under_way_for_a_lost_assignment_is_dropped(reading: Reading) -> None:
    _, response = await reading.client.next_fetch()
    reading.assign(TWO)
    asked, _ = await reading.client.next_fetch()
    assert asked == {1: 0}
    assert response.cancelled()


async def test_the_error_of_the_coordinator_reaches_who_waits(reading: Reading) -> None:
    caller = asyncio.create_task(reading.values())
    # Until it waits.
    for _ in range(10):
        await asyncio.sleep(0)
    reading.subscription.abort_waiters(TopicAuthorizationFailedError("topic"))
    with pytest.raises(TopicAuthorizationFailedError):
        await caller


async def test_a_fetch_that_fails_as_nobody_expects_ends_the_loop_with_an_error(reading: Reading) -> None:
    """Guards the look at what ended: `has_failed` would never tell, and the consumer return nothing for ever."""
    _, response = await reading.client.next_fetch()
    response.set_exception(RuntimeError("no such thing"))
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(KafkaError, match="Unexpected"):
            await reading.fetcher.error_future
    # Closing it would raise it again.
    reading.fetcher._fetch_task = asyncio.create_task(asyncio.sleep(0))


def test_what_is_replaced_of_aiokafkas_loop_is_what_it_was() -> None:
    """When this fails, read what aiokafka changed in these, and change `inferlane.runtime.kafka.fetch_loop` with it."""
    assert issubclass(LoopedFetcher, aiokafka_fetcher.Fetcher)
    replaced = {
        LoopedFetcher.__mro__[1]._fetch_requests_routine: "2a8ec5932644c9b0",
        LoopedFetcher.__mro__[1]._get_actions_per_node: "1dab2cf937d165d0",
        LoopedFetcher.__mro__[1].close: "1cd24bc1c442149e",
    }
    for function, digest in replaced.items():
        assert hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16] == digest, function.__qualname__

"""The result store on a real Valkey, where its promises meet a store that is full."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from inferlane.contracts.naming import Names
from inferlane.contracts.results import Accepted, Result, Status, decode_wake_up
from inferlane.errors import UnavailableError
from inferlane.runtime.redis.result_store import ResultStore, connect
from tests.faults.harness.store import full_store
from tests.support.parts import embedded_store

ACCEPTED = Accepted(model="iris", version="v1", accepted_s=1.0, deadline_s=2.0)


def result(request_id: str, status: Status = Status.SUCCEEDED) -> Result:
    # Large enough that a full store has no room for it in some slack of its own.
    return Result(request_id=request_id, status=status, model="iris", version="v1", content=b"x" * 100_000)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with embedded_store() as url:
        yield url


async def test_a_full_store_refuses_a_result_and_keeps_the_mark_of_acceptance(url: str) -> None:
    """Guarded by the script in `ResultStore.put`: as a plain pipeline, the mark is deleted (seen to fail so)."""
    async with connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        await store.mark_accepted("full", ACCEPTED, ttl_s=60)
        async with full_store(url):
            with pytest.raises(UnavailableError, match="is full and takes no write"):
                await store.put([result("full")])
            assert await store.find("full") == ACCEPTED
        assert await store.put([result("full")]) == [result("full")]
        assert await store.find("full") == result("full")
        assert await store.accepted("full") is None


@pytest.mark.parametrize(("size_bytes", "tasks"), [(100, 0), (100_000, 1)])
async def test_a_small_command_is_sent_without_a_task(url: str, size_bytes: int, tasks: int) -> None:
    """Guards `send_packed_command`; a command that the socket may not take at once still has a time limit."""
    started: list[object] = []

    def noted(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        started.append(work)
        return asyncio.Task(work, loop=loop, **options)

    async with connect(url) as redis:
        await redis.ping()
        loop = asyncio.get_running_loop()
        loop.set_task_factory(noted)
        try:
            await redis.set("key", b"x" * size_bytes)
        finally:
            loop.set_task_factory(None)
        assert len(started) == tasks
        assert await redis.strlen("key") == size_bytes


async def test_a_connection_that_the_store_closed_is_replaced(url: str) -> None:
    async with connect(url) as redis, connect(url) as other:
        await redis.set("key", b"value")
        await other.client_kill_filter(_id=str(await redis.client_id()))
        assert await redis.get("key") == b"value"


async def test_the_first_terminal_result_holds(url: str) -> None:
    async with connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        assert await store.put([result("first")]) == [result("first")]
        assert await store.put([result("first", Status.EXPIRED), result("other")]) == [result("first"), result("other")]
        assert await store.get(["first", "never"]) == [result("first"), None]


async def test_who_waits_is_told_in_the_same_step_unless_another_result_holds(url: str) -> None:
    """Guarded by `if is_first`: without it a client may be answered with what is not stored."""
    async with connect(url) as redis, redis.pubsub(ignore_subscribe_messages=True) as heard:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        await heard.subscribe(store.wake_up_channel("api"))
        small = replace(result("r"), content=b"small")
        await store.put([small], wake={"api": [small]})
        late = replace(small, status=Status.EXPIRED)
        assert await store.put([late], wake={"api": [late]}) == [small]
        large = result("large")
        await store.put([large], wake={"api": [large]})
        messages = [await anext(aiter(heard.listen())) for _ in range(2)]
        # The large one is left to be read.
        assert [decode_wake_up(message["data"]) for message in messages] == [[small], []]


async def test_an_id_that_nobody_accepted_is_unknown(url: str) -> None:
    async with connect(url) as redis:
        assert await ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names()).find("never") is None

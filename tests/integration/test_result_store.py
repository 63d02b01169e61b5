"""The result store on a real Valkey, where its promises meet a store that is full."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from inferlane.contracts.identity import foreign_key, name_of
from inferlane.contracts.naming import Names
from inferlane.contracts.results import Accepted, Result, Status, decode_wake_up
from inferlane.errors import UnavailableError
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
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


async def test_a_request_that_has_its_result_gets_no_mark_of_acceptance(url: str) -> None:
    """Guards `_MARK`: the mark outlived the result, and an answered request read QUEUED and EXPIRED then."""
    async with connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        await store.put([result("answered")])
        await store.mark_accepted("answered", ACCEPTED, ttl_s=60)
        assert await store.accepted("answered") is None
        await store.mark_accepted("open", ACCEPTED, ttl_s=60)
        assert await store.accepted("open") == ACCEPTED


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


@pytest.mark.parametrize("is_list", [False, True])
async def test_what_is_no_result_is_replaced_and_the_other_results_are_stored(url: str, *, is_list: bool) -> None:
    """Guards `put_despite_damage`: one such key stopped the worker of its version for as long as the key existed."""
    async with connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        await store.put([result("earlier")])
        await store.mark_accepted("odd", ACCEPTED, ttl_s=60)
        key = Names().store_key("result", "odd")
        await (redis.lpush(key, "x") if is_list else redis.set(key, b"garbage"))  # type: ignore[misc]  # its type says both
        assert await store.find("odd") == ACCEPTED
        assert await store.get(["odd", "earlier"]) == [None, result("earlier")]
        put = [result("before"), result("odd"), result("earlier", Status.EXPIRED), result("after")]
        assert await store.put(put) == [result("before"), result("odd"), result("earlier"), result("after")]
        assert await store.get(["odd", "after"]) == [result("odd"), result("after")]
        assert 0 < await redis.ttl(key) <= 60
        # From now on it is the first terminal result.
        assert await store.put([result("odd", Status.EXPIRED)]) == [result("odd")]


@pytest.mark.parametrize("is_list", [False, True])
async def test_a_single_result_that_replaces_what_is_no_result_wakes_its_client(url: str, *, is_list: bool) -> None:
    async with connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        key = Names().store_key("result", "odd")
        await (redis.lpush(key, "x") if is_list else redis.set(key, b""))  # type: ignore[misc]  # its type says both
        async with redis.pubsub() as heard:
            await heard.subscribe(store.wake_up_channel("api"))
            small = replace(result("odd"), content=b"x")
            assert (await store.put([small], wake={"api": [small]}))[0] is small
            assert await next_message(heard) == [small]


async def next_message(heard: Any) -> Any:
    async with asyncio.timeout(5):
        async for message in heard.listen():
            if message["type"] == "message":
                return decode_wake_up(message["data"])
    return None


async def test_a_name_of_another_type_does_not_stop_foreign_results(url: str) -> None:
    async with connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        key = foreign_key(b"", "mine", b"{}")
        await redis.lpush(Names().store_key("name", name_of(key)), "x")  # type: ignore[misc]  # its type says both
        foreign = replace(result("mine"), foreign_key=key)
        assert await store.put([foreign]) == [foreign]
        assert await store.foreign_key(name_of(key)) == key


async def test_a_replay_opens_a_request_whose_result_cannot_be_read(url: str) -> None:
    async with connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())
        await redis.set(Names().store_key("result", "odd"), b"garbage")
        assert await store.reopen("odd", ACCEPTED, ttl_s=60) is None
        assert await store.find("odd") == ACCEPTED

"""Cancellations through a real store: those made before a worker follows, and those made after."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from inferlane.contracts.naming import Names
from inferlane.runtime.redis.cancellations import Cancellations, CancelledRequests
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.retry import SystemClock
from tests.support.parts import embedded_store, eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def store() -> AsyncIterator[tuple[str, Redis]]:
    async with embedded_store() as url, connect(url) as redis:
        yield url, redis


async def test_a_worker_knows_of_cancellations_before_and_after_it_began_to_follow(store: tuple[str, Redis]) -> None:
    """Guards `_read_all` (before) and `_take` (after): each taken out, one of the two ids never shows."""
    url, redis = store
    clock = SystemClock()
    cancellations = Cancellations(redis, redis_url=url, clock=clock, names=Names())
    await cancellations.add("before", until_s=clock.now_s() + 60)
    await cancellations.add("over", until_s=clock.now_s() - 1)
    cancelled = CancelledRequests(redis, clock=clock, names=Names())
    cancelled.start()
    try:

        async def knows_before() -> bool:
            return "before" in cancelled

        await eventually(knows_before)
        await cancellations.add("after", until_s=clock.now_s() + 60)

        async def knows_after() -> bool:
            return "after" in cancelled

        await eventually(knows_after)
        assert "over" not in cancelled
        assert "never" not in cancelled
        assert 0 < await redis.ttl("inferlane:cancelled") <= 61
    finally:
        await cancelled.close()


async def test_the_store_and_the_workers_keep_a_bounded_number_and_the_ones_that_last_longest(
    store: tuple[str, Redis],
) -> None:
    """Guards `zremrangebyrank` and the bound of `_read_all`: whoever may cancel could fill every worker's memory."""
    url, redis = store
    clock = SystemClock()
    now_s = clock.now_s()
    await redis.zadd("inferlane:cancelled", {f"id-{number}": now_s + 1_000 + number for number in range(30_000)})
    cancelled = CancelledRequests(redis, clock=clock, names=Names())
    cancelled.start()
    try:

        async def knows_the_last() -> bool:
            return "id-29999" in cancelled

        await eventually(knows_the_last)
        assert "id-0" not in cancelled
        await Cancellations(redis, redis_url=url, clock=clock, names=Names()).add("new", until_s=now_s + 1e6)
        assert await redis.zcard("inferlane:cancelled") == 20_000
    finally:
        await cancelled.close()

"""Waits end with the deadline of the request, also where another call or another replica made the request."""

import asyncio

import pytest

from inferlane.contracts.results import Accepted, Result, Status
from producer_api.predict.pending import PendingRequests
from producer_api.predict.result_waits import ResultWaits
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.one_request import ACCEPTED_S, LoopClock, OneRequestStore

LIMIT_S = 20.0
LONG_S = 3_600.0


def accepted(*, deadline_s: float) -> Accepted:
    return Accepted(model="iris", version=None, accepted_s=ACCEPTED_S, deadline_s=deadline_s)


def make_waits(store: OneRequestStore, clock: FakeClock) -> ResultWaits:
    pending = PendingRequests(store, None, instance="api", max_waiters=5)  # type: ignore[arg-type]  # as far as it is used
    return ResultWaits(pending, clock=clock, slots=5)


async def wait_for_long(waits: ResultWaits, clock: FakeClock) -> Result | Accepted | None:
    async with asyncio.timeout(LIMIT_S):
        return await waits.wait("id", key="id", model="iris", until_s=clock.monotonic_s() + LONG_S)


@pytest.mark.parametrize("left_s", [-1.0, 0.0, 0.05])
async def test_a_wait_ends_expired_at_the_deadline_and_not_with_the_call(left_s: float) -> None:
    """Guards the deadline in `ResultWaits.until`: without it the wait goes on for as long as the client allows."""
    clock = LoopClock()
    deadline_s = clock.now_s() + left_s
    store = OneRequestStore(accepted(deadline_s=deadline_s))
    result = await wait_for_long(make_waits(store, clock), clock)
    assert isinstance(result, Result)
    assert (result.status, result.error_code) == (Status.EXPIRED, "deadline_exceeded")
    assert result is store.known
    assert result.finished_s > deadline_s


async def test_a_result_that_is_stored_before_the_deadline_is_kept() -> None:
    """Guards the last read of `ResultWaits.wait`: the wake-up of a result may be lost."""
    clock = LoopClock()
    store = OneRequestStore(accepted(deadline_s=clock.now_s() + 0.05))
    waiting = asyncio.create_task(wait_for_long(make_waits(store, clock), clock))
    async with asyncio.timeout(LIMIT_S):
        await store.reads.acquire()
    store.known = Result(request_id="id", status=Status.SUCCEEDED, model="iris", version="v1")
    assert await waiting is store.known


async def test_a_wait_that_is_shorter_than_the_deadline_leaves_the_request_alone() -> None:
    clock = LoopClock()
    store = OneRequestStore(accepted(deadline_s=clock.now_s() + LONG_S))
    async with asyncio.timeout(LIMIT_S):
        known = await make_waits(store, clock).wait("id", key="id", model="iris", until_s=clock.monotonic_s())
    assert known is store.known
    assert isinstance(known, Accepted)


async def test_a_wait_goes_on_when_its_first_read_fails() -> None:
    """Guards the tolerance of the first read: a store that restarts must not end every wait."""
    clock = LoopClock()
    store = OneRequestStore(None)
    store.is_away = True
    waits = make_waits(store, clock)
    waiting = asyncio.create_task(wait_for_long(waits, clock))
    async with asyncio.timeout(LIMIT_S):
        await store.reads.acquire()
    result = Result(request_id="id", status=Status.SUCCEEDED, model="iris", version="v1")
    waits._pending._settle([result])
    assert await waiting is result

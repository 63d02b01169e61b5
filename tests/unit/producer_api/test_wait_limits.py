"""Waits that share timers end in time, never early, and only if nothing came."""

import asyncio

import pytest

from producer_api.predict import wait_limits
from producer_api.predict.wait_limits import WaitLimits
from tests.support.http_messages import LIMIT_S
from tests.support.parts import eventually


@pytest.mark.parametrize("shared_from_s", [0.0, LIMIT_S], ids=["shared", "alone"])
async def test_a_wait_ends_when_its_time_is_over_and_not_before(
    monkeypatch: pytest.MonkeyPatch, shared_from_s: float
) -> None:
    """Guards the rounding of `step`: rounded down, a wait ended up to 50 ms before its deadline."""
    monkeypatch.setattr(wait_limits, "_SHARED_FROM_S", shared_from_s)
    loop, limits = asyncio.get_running_loop(), WaitLimits()
    ended_s: dict[float, float] = {}
    began_s = loop.time()
    waiters = {}
    for wait_s in (0.0, 0.01, 0.049, 0.05, 0.12):
        waiter = waiters[wait_s] = loop.create_future()
        waiter.add_done_callback(lambda _, wait_s=wait_s: ended_s.update({wait_s: loop.time() - began_s}))  # type: ignore[misc]  # bound now
        limits.add(waiter, wait_s)
    async with asyncio.timeout(LIMIT_S):
        assert await asyncio.gather(*waiters.values()) == [None] * len(waiters)
    # The loop's timers count in milliseconds.
    assert all(took_s >= wait_s - 0.001 for wait_s, took_s in ended_s.items())


async def test_a_waiter_that_was_discarded_or_resolved_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the check of `done`, and that nothing is kept of waits that are over."""
    monkeypatch.setattr(wait_limits, "_SHARED_FROM_S", 0.0)
    loop, limits = asyncio.get_running_loop(), WaitLimits()
    resolved, discarded, last = (loop.create_future() for _ in range(3))
    ends = [limits.add(waiter, 0.06) for waiter in (resolved, discarded, last)]
    resolved.set_result("result")
    ends[1].discard(discarded)
    async with asyncio.timeout(LIMIT_S):
        await last
    assert resolved.result() == "result"
    assert not discarded.done()

    async def is_empty() -> bool:
        return not limits._steps

    await eventually(is_empty)

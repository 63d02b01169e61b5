"""Whose turn it is: waiting clients first, bulk its share, nobody starves."""

import asyncio

import pytest

from inferlane.naming import Lane
from tests.fakes.clock import FakeClock
from workers.turns import FairShare, Turnstile

BOTH = frozenset(Lane)


def test_under_contention_bulk_gets_its_share_of_the_time() -> None:
    share = FairShare(0.2)
    used = dict.fromkeys(Lane, 0.0)
    for _ in range(1_000):
        lane = share.next_lane(BOTH)
        seconds = 0.004 if lane is Lane.BULK else 0.001
        share.note(lane, seconds, contended=True)
        used[lane] += seconds
    assert used[Lane.BULK] / sum(used.values()) == pytest.approx(0.2, abs=0.01)


def test_a_waiting_client_goes_before_bulk_that_had_its_share() -> None:
    share = FairShare(0.2)
    share.note(Lane.BULK, 1.0, contended=True)
    assert share.next_lane(BOTH) is Lane.REQUESTS


def test_a_bulk_share_of_zero_serves_bulk_only_when_nobody_waits() -> None:
    share = FairShare(0.0)
    for _ in range(100):
        assert share.next_lane(BOTH) is Lane.REQUESTS
        share.note(Lane.REQUESTS, 1.0, contended=True)
    assert share.next_lane({Lane.BULK}) is Lane.BULK


def test_bulk_that_ran_alone_owes_nothing_later() -> None:
    share = FairShare(0.5)
    share.note(Lane.BULK, 100.0, contended=False)
    share.note(Lane.REQUESTS, 1.0, contended=True)
    assert share.next_lane(BOTH) is Lane.BULK


async def test_one_holder_at_a_time_and_clients_overtake_bulk() -> None:
    turnstile = Turnstile(bulk_share=0.0, clock=FakeClock())
    served: list[Lane] = []
    entered = asyncio.Event()
    release = asyncio.Event()

    async def hold() -> None:
        async with turnstile.turn(Lane.BULK):
            entered.set()
            await release.wait()

    async def queue(lane: Lane) -> None:
        async with turnstile.turn(lane):
            served.append(lane)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(hold())
        await entered.wait()
        for lane in (Lane.BULK, Lane.REQUESTS, Lane.REQUESTS):
            tasks.create_task(queue(lane))
        await asyncio.sleep(0)
        assert served == []
        release.set()
    assert served == [Lane.REQUESTS, Lane.REQUESTS, Lane.BULK]


async def test_a_cancelled_waiter_does_not_keep_the_turn() -> None:
    turnstile = Turnstile(bulk_share=0.2, clock=FakeClock())

    async def queue() -> None:
        async with turnstile.turn(Lane.REQUESTS):
            pass

    async with asyncio.timeout(5):
        async with turnstile.turn(Lane.REQUESTS):
            waiter = asyncio.create_task(queue())
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
        await queue()


async def test_only_the_part_of_a_turn_counts_that_somebody_else_wanted() -> None:
    """Guards `_wanted_since_s`: without it bulk that ran alone for long would owe for all of it to one client."""
    clock = FakeClock()
    turnstile = Turnstile(bulk_share=0.5, clock=clock)

    async def queue() -> None:
        async with turnstile.turn(Lane.REQUESTS):
            clock.advance(1)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks, turnstile.turn(Lane.BULK):
        clock.advance(100)
        tasks.create_task(queue())
        await asyncio.sleep(0)
        clock.advance(1)
    assert turnstile._share._used_s[Lane.BULK] == pytest.approx(1)

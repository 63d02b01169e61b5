"""Turns among the versions of one process: who has used the least time goes first, and nobody saves up a share."""

import asyncio
from collections import Counter

import pytest

from workers.lane_scheduler import FairQueue
from workers.model import SHARED_RUN_S
from workers.run_cost import RunCost


def _wait(queue: FairQueue, version: str) -> "asyncio.Future[None]":
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    queue.push(version, waiter)
    return waiter


def _turn(queue: FairQueue, owners: "dict[asyncio.Future[None], str]", costs: dict[str, float]) -> str:
    """Give the next turn and return whose it was."""
    version = owners.pop(queue.pop())
    queue.begin(version)
    queue.note(version, costs[version])
    return version


async def test_versions_that_always_wait_share_the_time_and_not_the_turns() -> None:
    """Guards the choice by used time: first come first served gives a slow version nearly all of it."""
    queue, owners = FairQueue(), dict[asyncio.Future[None], str]()
    costs = {"slow": 1.0, "fast": 0.1}
    for version in costs:
        owners[_wait(queue, version)] = version
    turns: Counter[str] = Counter()
    for _ in range(220):
        version = _turn(queue, owners, costs)
        turns[version] += 1
        owners[_wait(queue, version)] = version
    assert turns["slow"] * costs["slow"] == pytest.approx(turns["fast"] * costs["fast"], abs=1.0)


async def test_a_version_that_comes_back_waits_for_no_second_turn_of_a_busy_one() -> None:
    queue, owners = FairQueue(), dict[asyncio.Future[None], str]()
    costs = {"busy": 1.0, "idle": 0.1}
    for _ in range(8):
        owners[_wait(queue, "busy")] = "busy"
    for _ in range(3):
        assert _turn(queue, owners, costs) == "busy"
    owners[_wait(queue, "idle")] = "idle"
    assert _turn(queue, owners, costs) == "idle"


async def test_a_version_that_was_idle_for_long_has_saved_up_nothing() -> None:
    queue, owners = FairQueue(), dict[asyncio.Future[None], str]()
    costs = {"busy": 1.0, "idle": 1.0}
    for _ in range(100):
        owners[_wait(queue, "busy")] = "busy"
        _turn(queue, owners, costs)
    for version in ("busy", "idle"):
        for _ in range(10):
            owners[_wait(queue, version)] = version
    turns = Counter(_turn(queue, owners, costs) for _ in range(10))
    assert turns["busy"] >= 4


async def test_everybody_who_did_not_leave_gets_one_turn() -> None:
    queue = FairQueue()
    waiters = [(_wait(queue, version), version) for version in "aabbc"]
    for number, (waiter, version) in enumerate(waiters[:3]):
        waiter.cancel()
        if number:
            queue.remove(version, waiter)
    queue.drop_cancelled()
    assert len(queue) == 2
    assert {queue.pop(), queue.pop()} == {waiter for waiter, _ in waiters[3:]}
    assert not queue


def test_a_run_among_other_versions_has_as_many_rows_as_its_time_allows() -> None:
    cost = RunCost()
    cost.note(200, 10 * SHARED_RUN_S)
    assert cost.rows_within(SHARED_RUN_S) == 20
    # However slow a row is, some share a run: a fixed cost would be paid for each row.
    cost.note(1, 100 * SHARED_RUN_S)
    assert cost.rows_within(SHARED_RUN_S) == 16

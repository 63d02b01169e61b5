"""Which lane infers next: clients first, bulk for its share, and no lane saves up credit."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlane.contracts.naming import Lane
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.virtual_time import VirtualTime
from workers.lane_scheduler import BulkCredit, LaneScheduler

BOTH = frozenset(Lane)


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Comes at `at_s`, then takes one turn after the other, each `pause_s` after the last one ended."""

    lane: Lane
    at_s: float
    turns_s: Sequence[float]
    pause_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Turn:
    lane: Lane
    asked_s: float
    started_s: float
    ended_s: float


def simulate(senders: Sequence[Sender], *, bulk_share: float) -> list[Turn]:
    """The turns of all senders at one scheduler, in the order in which they started."""
    time = VirtualTime()
    scheduler = LaneScheduler(bulk_share=bulk_share, clock=time)
    turns: list[Turn] = []

    async def send(sender: Sender) -> None:
        await time.sleep(sender.at_s)
        for turn_s in sender.turns_s:
            asked_s = time.now_s()
            async with scheduler.turn(sender.lane):
                started_s = time.now_s()
                await time.sleep(turn_s)
            turns.append(Turn(lane=sender.lane, asked_s=asked_s, started_s=started_s, ended_s=time.now_s()))
            if sender.pause_s:
                await time.sleep(sender.pause_s)

    async def all_of_them() -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for sender in senders:
                tasks.create_task(send(sender))
            await time.run_until_idle()

    asyncio.run(all_of_them())
    return sorted(turns, key=lambda turn: turn.started_s)


def used_s(turns: Sequence[Turn], lane: Lane, *, from_s: float, to_s: float) -> float:
    """How long the lane had the model between the two moments."""
    return sum(max(0.0, min(turn.ended_s, to_s) - max(turn.started_s, from_s)) for turn in turns if turn.lane is lane)


def contended_stretches(turns: Sequence[Turn]) -> list[tuple[float, float]]:
    """The periods in which both lanes wait or run."""
    moments = sorted({moment for turn in turns for moment in (turn.asked_s, turn.ended_s)})
    found: list[tuple[float, float]] = []
    for from_s, to_s in pairwise(moments):
        there = {turn.lane for turn in turns if turn.asked_s <= from_s and turn.ended_s >= to_s}
        if there == BOTH:
            joined = bool(found) and found[-1][1] == from_s
            found[-1:] = [(found[-1][0], to_s)] if joined else [*found[-1:], (from_s, to_s)]
    return found


SENDERS = st.lists(
    st.builds(
        Sender,
        lane=st.sampled_from(Lane),
        at_s=st.integers(0, 40),
        turns_s=st.lists(st.integers(1, 20), min_size=1, max_size=12),
        pause_s=st.sampled_from([0, 0, 0, 1, 7]),
    ),
    min_size=2,
    max_size=6,
)
SHARES = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.8])


@given(SENDERS, SHARES)
@settings(deadline=None)
def test_a_client_waits_behind_bulk_for_one_turn_and_the_share_of_one_client_turn(
    senders: list[Sender], bulk_share: float
) -> None:
    """Guards both bounds of the credit: without one of them, some order of arrival lets bulk run on."""
    turns = simulate(senders, bulk_share=bulk_share)
    longest = {lane: max((t for s in senders if s.lane is lane for t in s.turns_s), default=0) for lane in Lane}
    earned_s = longest[Lane.REQUESTS] * bulk_share / (1 - bulk_share)
    clients = [turn for turn in turns if turn.lane is Lane.REQUESTS]
    for turn in clients:
        # Since the client came, or since the client before it left: from then on only bulk is in its way.
        others = [other.ended_s for other in clients if turn.asked_s < other.ended_s <= turn.started_s]
        alone_since_s = max([turn.asked_s, *others])
        behind_s = used_s(turns, Lane.BULK, from_s=alone_since_s, to_s=turn.started_s)
        assert behind_s <= longest[Lane.BULK] + earned_s + 1e-6


@given(SENDERS, SHARES)
@settings(deadline=None)
def test_bulk_gets_its_share_of_every_spell_that_both_lanes_want(senders: list[Sender], bulk_share: float) -> None:
    turns = simulate(senders, bulk_share=bulk_share)
    longest_s = max(max(sender.turns_s) for sender in senders)
    for from_s, to_s in contended_stretches(turns):
        bulk_s = used_s(turns, Lane.BULK, from_s=from_s, to_s=to_s)
        # What is owed at either end of a spell: the share of a client turn that runs, and one debt of bulk's own.
        slack_s = 2 * longest_s
        assert bulk_s >= bulk_share * (to_s - from_s) - slack_s


def test_bulk_and_clients_share_as_set_whatever_their_turns_last() -> None:
    for bulk_s, client_s in ((1, 1), (1, 20), (20, 1), (7, 3)):
        senders = [
            Sender(lane=lane, at_s=0, turns_s=[turn_s] * (4_000 // turn_s))
            for lane, turn_s in ((Lane.BULK, bulk_s), (Lane.REQUESTS, client_s))
            for _ in range(2)
        ]
        turns = simulate(senders, bulk_share=0.2)
        share = used_s(turns, Lane.BULK, from_s=0, to_s=4_000) / 4_000
        assert share == pytest.approx(0.2, abs=0.02), (bulk_s, client_s)


@pytest.mark.parametrize("bulk_s", [1, 30])
def test_bulk_that_comes_after_a_rush_of_clients_is_owed_nothing_for_it(bulk_s: int) -> None:
    """Guards that bulk earns only while it waits: otherwise 90 s of clients alone give bulk the model for 22 s."""
    clients = [Sender(lane=Lane.REQUESTS, at_s=0, turns_s=[1] * 1_000) for _ in range(2)]
    bulk = [Sender(lane=Lane.BULK, at_s=900, turns_s=[bulk_s] * 50) for _ in range(2)]
    turns = simulate([*clients, *bulk], bulk_share=0.2)
    served = [turn for turn in turns if turn.lane is Lane.REQUESTS]
    gaps = [later.started_s - earlier.ended_s for earlier, later in pairwise(served)]
    assert 0 < max(gaps) <= bulk_s


def test_clients_that_come_after_bulk_alone_are_owed_nothing_for_it() -> None:
    bulk = [Sender(lane=Lane.BULK, at_s=0, turns_s=[1] * 1_000) for _ in range(2)]
    clients = [Sender(lane=Lane.REQUESTS, at_s=500, turns_s=[1] * 100) for _ in range(2)]
    turns = simulate([*clients, *bulk], bulk_share=0.2)
    assert used_s(turns, Lane.BULK, from_s=500, to_s=550) == pytest.approx(10, abs=2)


def test_bulk_does_not_owe_for_the_turns_that_nobody_else_wanted_yet() -> None:
    """Guards the reset when no client waits: otherwise one client per bulk turn adds up to an unlimited debt."""
    # One client at a time, which comes back while bulk runs: it never waits where a turn begins.
    loner = Sender(lane=Lane.REQUESTS, at_s=5, turns_s=[1] * 40, pause_s=5)
    rush = [Sender(lane=Lane.REQUESTS, at_s=600, turns_s=[1] * 200) for _ in range(2)]
    bulk = [Sender(lane=Lane.BULK, at_s=0, turns_s=[10] * 60) for _ in range(2)]
    turns = simulate([loner, *rush, *bulk], bulk_share=0.2)
    assert used_s(turns, Lane.BULK, from_s=600, to_s=800) >= 20


def test_a_bulk_share_of_zero_serves_bulk_only_when_nobody_waits_and_of_one_the_reverse() -> None:
    for bulk_share, last in ((0.0, Lane.BULK), (1.0, Lane.REQUESTS)):
        senders = [Sender(lane=lane, at_s=0, turns_s=[1] * 20) for lane in Lane for _ in range(2)]
        order = [turn.lane for turn in simulate(senders, bulk_share=bulk_share)]
        assert order[-10:] == [last] * 10


def test_credit_that_was_not_used_is_void() -> None:
    credit = BulkCredit(0.5)
    for _ in range(100):
        credit.note(Lane.REQUESTS, 1.0, contended_s=1.0)
    credit.note(Lane.BULK, 1.0, contended_s=1.0)
    assert credit.next_lane(BOTH) is Lane.REQUESTS


def test_a_debt_is_paid_off_while_bulk_is_away() -> None:
    credit = BulkCredit(0.5)
    credit.note(Lane.BULK, 10.0, contended_s=10.0)
    credit.note(Lane.REQUESTS, 100.0, contended_s=0.0)
    assert credit.next_lane(BOTH) is Lane.REQUESTS
    credit.note(Lane.REQUESTS, 1.0, contended_s=1.0)
    assert credit.next_lane(BOTH) is Lane.BULK


async def test_one_holder_at_a_time_and_clients_overtake_bulk() -> None:
    scheduler = LaneScheduler(bulk_share=0.0, clock=FakeClock())
    served: list[Lane] = []
    entered = asyncio.Event()
    release = asyncio.Event()

    async def hold() -> None:
        async with scheduler.turn(Lane.BULK):
            entered.set()
            await release.wait()

    async def queue(lane: Lane) -> None:
        async with scheduler.turn(lane):
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


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_cancelled_waiter_does_not_keep_the_turn(has_begun: bool) -> None:
    """Cancelled while it waits, or just when it was given the turn."""
    scheduler = LaneScheduler(bulk_share=0.2, clock=FakeClock())

    async def queue() -> None:
        async with scheduler.turn(Lane.REQUESTS):
            pass

    async with asyncio.timeout(5):
        async with scheduler.turn(Lane.REQUESTS):
            waiter = asyncio.create_task(queue())
            await asyncio.sleep(0)
            if not has_begun:
                waiter.cancel()
        if has_begun:
            waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        await queue()

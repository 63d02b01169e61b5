"""What waits for a candidate that is rolled back: nobody waits for it long, whatever becomes of it."""

import asyncio

import pytest

from inferlane.contracts.rollout import OnFailure, Phase, RolloutSpec, RolloutState, Step
from inferlane.contracts.traffic_split import Split
from router.rollouts.clearance import Clearance, left_of
from router.rollouts.controller import Window, step
from router.rollouts.guards import CandidatePool
from router.rollouts.states import begin, enter_step, roll_back, split_of

WORKING = CandidatePool(workers=1, lag_records=40)
SOON, LATE = 1.0, 31.0


def state_of(backlog: str, *, had_traffic: bool = True) -> RolloutState:
    """A rollout that is aborted at 0 s."""
    how = OnFailure(backlog=backlog)  # type: ignore[arg-type]  # one of its values
    spec = RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(weight=0.1),), on_failure=how)
    state = begin(RolloutState(id="iris-1", spec=spec), "", 0.0)
    if had_traffic:
        state = enter_step(state, 0, "", 0.0)
    return roll_back(state, "enough seen", 0.0)


class Moves:
    def __init__(self) -> None:
        self.moved = asyncio.Event()
        self.begun = 0
        self.is_cancelled = False
        self.clearance = Clearance(reroute=self._reroute, retry_failed=self._retry)

    async def _reroute(self, _: RolloutSpec) -> None:
        self.begun += 1
        try:
            await self.moved.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise

    async def _retry(self, _: RolloutState) -> int:
        return 0

    async def is_done_after_its_move(self, state: RolloutState, pool: CandidatePool, now_s: float) -> bool:
        assert not self.clearance.is_backlog_done(state, pool, now_s=now_s)
        self.moved.set()
        async with asyncio.timeout(10):
            while not self.clearance.is_backlog_done(state, pool, now_s=now_s):  # noqa: ASYNC110 - a task has no event
                await asyncio.sleep(0)
        return self.begun == 1


@pytest.mark.parametrize("backlog", ["drain", "auto", "reroute"])
async def test_a_candidate_without_traffic_has_nothing_but_its_probe(backlog: str) -> None:
    """Nobody answers a probe of a pool that never starts, and an abort waited ten minutes for it."""
    moves, state = Moves(), state_of(backlog, had_traffic=False)
    assert moves.clearance.is_backlog_done(state, CandidatePool(workers=0, lag_records=1), now_s=SOON)
    assert (moves.begun, left_of(state, WORKING)) == (0, 0)


async def test_a_drain_ends_with_the_backlog_or_after_half_a_minute_and_says_what_is_left() -> None:
    moves, state = Moves(), state_of("drain")
    assert not moves.clearance.is_backlog_done(state, WORKING, now_s=SOON)
    assert moves.clearance.is_backlog_done(state, CandidatePool(workers=1, lag_records=0), now_s=SOON)
    assert moves.clearance.is_backlog_done(state, WORKING, now_s=LATE)
    assert moves.begun == 0
    split = split_of(state, LATE)
    over = step(state, Window(split=split, pool=WORKING, is_backlog_done=True, left=left_of(state, WORKING)), LATE)
    assert over.state.phase is Phase.ROLLED_BACK
    assert over.state.reason == "enough seen; 40 requests still wait for v2, which goes on with them"


@pytest.mark.parametrize(
    ("pool", "now_s"),
    [
        (WORKING, LATE),
        (CandidatePool(workers=0, lag_records=40), SOON),
        (CandidatePool(workers=1, is_halted=True, lag_records=40), SOON),
    ],
)
async def test_what_a_candidate_does_not_work_off_is_moved(pool: CandidatePool, now_s: float) -> None:
    assert await Moves().is_done_after_its_move(state_of("auto"), pool, now_s)


async def test_a_candidate_that_works_its_backlog_off_keeps_it_for_a_while() -> None:
    moves = Moves()
    assert not moves.clearance.is_backlog_done(state_of("auto"), WORKING, now_s=SOON)
    assert moves.begun == 0
    assert await moves.is_done_after_its_move(state_of("reroute"), WORKING, SOON)


@pytest.mark.parametrize("backlog", ["drain", "auto", "reroute"])
def test_the_weight_is_gone_with_the_abort_whatever_waits(backlog: str) -> None:
    state = state_of(backlog)
    weight = Split(model="iris", weights={"v1": 0.9, "v2": 0.1}, rollout="iris-1")
    decision = step(state, Window(split=weight, pool=WORKING), SOON)
    assert decision.split is not None
    assert decision.split.weights == {"v1": 1.0}


async def test_a_move_of_a_rollout_that_is_forgotten_ends_with_the_router() -> None:
    """Guards `Clearance.forget`: a task that nobody held could be collected, and `close` did not end it."""
    moves, state = Moves(), state_of("reroute")
    assert not moves.clearance.is_backlog_done(state, WORKING, now_s=SOON)
    await asyncio.sleep(0)
    moves.clearance.forget(state)
    async with asyncio.timeout(10):
        await moves.clearance.close()
    assert moves.is_cancelled

"""What the controller sees of the windows: marked requests by lane, and what workers said of themselves."""

from msgspec.structs import replace

from inferlane.contracts.lane_tallies import LaneTally
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import Check, CheckOptions, RolloutSpec, RolloutState, Step
from inferlane.contracts.windows import Slot, WorkerUse
from inferlane.runtime.config import load_settings
from router.rollouts.checks import judge
from router.rollouts.evidence import LaneSlot, Learnt, fold
from router.rollouts.evidence_record import to_record
from router.rollouts.lane_slots import in_doubt, lane_slots, workers_of
from router.rollouts.states import begin, enter_step, moved_in_time

SPEC = RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(weight=0.1),), lanes=(Lane.REQUESTS,))
STATE = enter_step(begin(RolloutState(id="r", spec=SPEC), "", 0.0), 0, "", 100.0)


def slot(index: int, version: str, *tallies: LaneTally) -> Slot:
    return Slot(model="iris", version=version, index=index, lanes=tallies)


def tally(requests: int, lane: Lane = Lane.REQUESTS, rollout: str = "r", *, is_shadow: bool = False) -> LaneTally:
    return LaneTally(rollout=rollout, lane=lane, requests=requests, is_shadow=is_shadow)


def test_only_slots_that_change_no_more_are_closed_and_none_is_seen_twice() -> None:
    slots = [slot(index, "v2", tally(1)) for index in (20, 21, 22, 23)]
    closed, opened, through = lane_slots(STATE, slots, [], slot_s=5, now_s=117.0)
    assert ([one.index for one in closed], [one.index for one in opened], through) == ([20, 21], [22, 23], 21)
    later = learnt_through(STATE, through)
    closed, opened, _ = lane_slots(later, slots, [], slot_s=5, now_s=117.0)
    assert ([one.index for one in closed], [one.index for one in opened]) == ([], [22, 23])


def learnt_through(state: RolloutState, through: int) -> RolloutState:
    return RolloutState(
        id=state.id,
        spec=state.spec,
        phase=state.phase,
        step_since_s=state.step_since_s,
        evidence=to_record(Learnt(), through_slot=through),
    )


def test_other_lanes_and_other_rollouts_are_left_out_and_shadows_are_apart() -> None:
    ours = slot(30, "v2", tally(3), tally(5, Lane.BULK), tally(7, rollout="old"), tally(9, is_shadow=True))
    theirs = slot(30, "v1", tally(20))
    closed, _, _ = lane_slots(STATE, [ours], [theirs], slot_s=5, now_s=1_000.0)
    (found,) = closed
    assert (found.candidate.requests, found.stable.requests) == (3, 20)
    assert found.shadow is not None
    assert found.shadow.requests == 9


def test_the_weight_counts_once_the_split_has_settled() -> None:
    slots = [slot(index, "v2", tally(1)) for index in (19, 20, 21, 22)]
    closed, _, _ = lane_slots(STATE, slots, [], slot_s=5, now_s=1_000.0)
    assert [one.weight for one in closed] == [None, None, None, 0.1]
    assert [one.is_of_step for one in closed] == [False, True, True, True]


def test_a_worker_that_is_silent_is_gone_and_old_errors_in_a_row_are_none() -> None:
    workers = {
        "gone": WorkerUse(newest_s=960.0, is_halted=True),
        "here": WorkerUse(newest_s=999.0, failed_in_a_row=3),
    }
    slots = [Slot(model="iris", version="v2", index=199, workers=workers)]
    pool = workers_of(slots, since_s=990.0, now_s=1_000.0)
    assert (pool.workers, pool.is_halted, pool.failed_in_a_row) == (1, False, 3)
    assert workers_of(slots, since_s=999.5, now_s=1_000.0).failed_in_a_row == 0


def test_slots_that_may_still_change_say_nothing_of_the_share() -> None:
    """The two versions report at different moments: what is missing of one of them is only late."""
    slots = [slot(index, "v1", tally(50)) for index in (23, 24)]
    closed, opened, _ = lane_slots(STATE, [], slots, slot_s=5, now_s=128.0)
    assert [one.weight for one in closed] == [0.1]
    assert [one.weight for one in opened] == [None]


def test_requests_that_wait_for_the_candidate_are_not_missing() -> None:
    """A candidate that hangs serves none of its share, and that alone is not another share than asked for."""
    checks = {Check.SHARE: CheckOptions()}
    spec = replace(SPEC, checks=checks)
    hanging = LaneSlot(index=1, candidate=tally(0), stable=tally(200), weight=0.1)
    learnt = fold(Learnt(), [hanging], checks)
    (lost,) = judge(learnt, spec, {}, weight=0.1, in_doubt=3)
    assert lost.is_failed
    (waiting,) = judge(learnt, spec, {}, weight=0.1, in_doubt=22)
    assert not waiting.is_failed


def test_what_two_versions_report_apart_is_in_doubt() -> None:
    slots = [[slot(1, "v2", tally(20), tally(100, rollout="old"))], [slot(1, "v1", tally(80))]]
    usual, short = load_settings(outcome_slot_s=5), load_settings(outcome_slot_s=1)
    assert in_doubt(STATE, slots, outcomes=usual.outcomes) == 40
    assert in_doubt(STATE, slots, outcomes=short.outcomes, lag_records=7) == 107
    assert in_doubt(STATE, [[], []], outcomes=usual.outcomes) == 0


def test_what_is_ahead_of_a_clock_that_was_set_back_is_left_out_and_what_comes_is_seen() -> None:
    """Nothing was learnt until the clock had caught up: a broken candidate kept its weight meanwhile."""
    back = moved_in_time(learnt_through(STATE, 5_000), -10_000.0, slot_s=5)
    assert back.evidence.through_slot == 3_000
    now_s = 5 * 3_002 + 6.0
    before, now = slot(4_999, "v2", tally(7)), slot(3_001, "v2", tally(3))
    closed, opened, _ = lane_slots(back, [now, before], [], slot_s=5, now_s=now_s)
    assert [one.candidate.requests for one in [*closed, *opened]] == [3]
    halted = replace(now, workers={"w": WorkerUse(newest_s=now_s - 1, is_halted=True)})
    well = replace(before, workers={"w": WorkerUse(newest_s=25_000.0)})
    assert workers_of([halted, well], since_s=0.0, now_s=now_s).is_halted


def test_copies_are_compared_with_the_lane_that_the_originals_are_in() -> None:
    """They wait in the bulk lane: what failed of them was compared with bulk requests of the stable version alone."""
    copies = tally(50, Lane.BULK, is_shadow=True)
    for lanes in ((Lane.REQUESTS,), (Lane.REQUESTS, Lane.BULK), (Lane.BULK, Lane.REQUESTS)):
        state = replace(STATE, spec=replace(SPEC, lanes=lanes))
        closed, _, _ = lane_slots(
            state, [slot(30, "v2", copies)], [slot(30, "v1", tally(100))], slot_s=5, now_s=1_000.0
        )
        assert [(one.stable.requests, one.shadow) for one in closed if one.shadow is not None] == [(100, copies)]

"""The controller: each transition, what it waits for, and that it decides the same after a kill at any of them."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from inferlane.contracts.lane_tallies import LaneTally, run_bin
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import (
    Check,
    CheckOptions,
    Exposure,
    Pace,
    Phase,
    RolloutSpec,
    RolloutState,
    Step,
    Then,
    decode_rollout,
    encode_rollout,
    key_of,
)
from inferlane.contracts.traffic_split import Shadow, Split
from router.rollouts.controller import Decision, Window, step
from router.rollouts.evidence import LaneSlot, Learnt, fold
from router.rollouts.evidence_record import from_record, to_record
from router.rollouts.guards import CandidatePool
from router.rollouts.states import begin, is_same, promote, resume, roll_back, split_of, weight_of

READY = CandidatePool(workers=1, is_probed=True)
SPEC = RolloutSpec(
    model="iris",
    candidate="v2",
    stable="v1",
    steps=(Step(shadow=0.1, min_requests=50), Step(weight=0.05), Step(weight=0.5)),
    each=Pace(min_requests=500, min_time_s=10.0, max_wait_s=600.0),
    bake_s=60.0,
    prepare_s=100.0,
)


def started(spec: RolloutSpec = SPEC) -> RolloutState:
    return begin(RolloutState(id="iris-1", spec=spec, generation=3), "", 0.0, "ann")


def tally(requests: int, failed: int = 0, **more: object) -> LaneTally:
    values = {"rollout": "iris-1", "lane": Lane.REQUESTS, "requests": requests, "failed": failed, **more}
    return LaneTally(**values)  # type: ignore[arg-type]  # the fields of the tally, by name


def slot(number: int, ours: tuple[int, int] = (0, 0), theirs: tuple[int, int] = (0, 0), **more: object) -> LaneSlot:
    return LaneSlot(index=number, candidate=tally(*ours), stable=tally(*theirs), **more)  # type: ignore[arg-type]  # as above


def decide(
    state: RolloutState, now_s: float, *slots: LaneSlot, pool: CandidatePool = READY, **more: object
) -> Decision:
    through = max((one.index for one in slots), default=-1)
    window = Window(closed=slots, through_slot=through, pool=pool, **more)  # type: ignore[arg-type]  # as above
    return step(state, window, now_s)


def at_step(number: int, spec: RolloutSpec = SPEC) -> RolloutState:
    """A rollout at this step, at 1,000 s."""
    state = decide(started(spec), 1_000.0).state
    while state.step < number:
        shadow = tally(5_000) if state.phase is Phase.SHADOWING else None
        busy = slot(-1, (5_000, 0) if shadow is None else (0, 0), (95_000, 0), shadow=shadow)
        state = replace(decide(state, 2_000.0, busy).state, step_since_s=1_000.0, phase_since_s=1_000.0)
    return state


def test_a_rollout_goes_all_the_way_and_says_why_at_each_step() -> None:
    state, phases = started(), []
    now_s, number = 0.0, 0
    while not state.phase.is_final:
        weight, now_s, number = weight_of(state), now_s + 20.0, number + 1
        ours = int(2_000 * weight)
        shadow = tally(200) if state.phase is Phase.SHADOWING else None
        busy = slot(number, (ours, ours // 100), (2_000 - ours, (2_000 - ours) // 100), shadow=shadow)
        decision = decide(state, now_s, busy, split=split_of(state, now_s))
        state = decision.state
        phases += [(event.phase, event.weight) for event in decision.events]
    assert phases == [
        (Phase.SHADOWING, 0.0),
        (Phase.STEPPING, 0.05),
        (Phase.STEPPING, 0.5),
        (Phase.BAKING, 1.0),
        (Phase.PROMOTED, 1.0),
    ]
    assert [event.number for event in state.events] == list(range(1, 7))
    assert "requests without an alarm" in state.events[-2].reason
    assert "same within" in state.events[-2].reason
    last = split_of(state, now_s)
    assert (last.weights, last.rollout, last.fallback, last.shadow) == ({"v2": 1.0}, "", "", None)


def test_no_weight_before_a_worker_is_ready_and_has_answered_the_probe() -> None:
    waiting = decide(started(), 50.0, pool=CandidatePool(workers=0))
    assert (waiting.state.phase, waiting.sends_probe) == (Phase.PREPARING, True)
    assert waiting.state.waits_for == "the first worker of v2: its probe of 00:00 UTC is not answered"
    assert waiting.split is not None
    assert waiting.split.weights == {"v1": 1.0}
    nobody_knows = decide(waiting.state, 60.0, pool=CandidatePool())
    assert (nobody_knows.state.phase, nobody_knows.sends_probe) == (Phase.PREPARING, True)
    silent = decide(waiting.state, 60.0, pool=CandidatePool(workers=1))
    assert (silent.state.phase, silent.state.waits_for) == (Phase.PREPARING, "v2 to answer its probe of 00:00 UTC")
    # It answered and is gone again, or its heartbeat is not there yet.
    gone = decide(waiting.state, 60.0, pool=CandidatePool(workers=0, is_probed=True))
    assert (gone.state.phase, gone.sends_probe) == (Phase.PREPARING, False)
    ready = decide(waiting.state, 60.0, pool=READY)
    assert (ready.state.phase, ready.sends_probe) == (Phase.SHADOWING, False)


def test_a_pool_that_never_comes_pauses_the_rollout_and_a_resume_waits_anew() -> None:
    nobody = CandidatePool(workers=0)
    paused = decide(started(), 101.0, pool=nobody).state
    assert (paused.phase, paused.paused_from) == (Phase.PAUSED, Phase.PREPARING)
    assert paused.reason == "waited 100 s for the first worker of v2: its probe of 00:00 UTC is not answered"
    # It has no traffic: that no worker is there is no reason to roll back.
    held = decide(paused, 500.0, pool=nobody)
    assert (held.state.phase, held.sends_probe) == (Phase.PAUSED, False)
    again = decide(resume(held.state, "", 600.0, generation=4), 601.0, pool=nobody)
    assert (again.state.phase, again.sends_probe) == (Phase.PREPARING, True)
    assert again.state.waits_for == "the first worker of v2: its probe of 00:10 UTC is not answered"
    assert decide(again.state, 602.0).state.phase is Phase.SHADOWING


def test_a_candidate_that_fails_its_probe_fails_the_rollout_with_the_reason() -> None:
    failed = decide(started(), 5.0, pool=CandidatePool(workers=1, probe_error="the weights are not there"))
    assert failed.state.phase is Phase.FAILED
    assert failed.state.reason == "v2 failed its probe, a row of zeros: the weights are not there"
    assert not failed.sends_probe


def test_a_shadow_step_copies_a_share_and_gives_no_weight() -> None:
    split = split_of(at_step(0), 5.0)
    assert split.shadow == Shadow(version="v2", share=0.1)
    assert split.weights == {"v1": 1.0}
    assert split.fallback == "v1"


def test_no_data_holds_says_what_is_missing_and_then_pauses() -> None:
    state = at_step(1)
    held = decide(state, 1_100.0, slot(1, (87, 0), (1_700, 0))).state
    assert (held.phase, held.waits_for) == (Phase.STEPPING, "87 of 500 requests")
    paused = decide(held, 1_601.0).state
    assert paused.phase is Phase.PAUSED
    assert "87 of 500 requests" in paused.reason
    assert weight_of(paused) == 0.05


def test_a_candidate_is_promoted_only_when_it_is_shown_to_be_no_worse() -> None:
    state = at_step(2)
    # 600 requests at 4 % against 3.7 %: enough for the step, and nowhere near the margin of a point.
    few = slot(9, (600, 24), (600, 22))
    fresh = replace(state, evidence=to_record(Learnt(), through_slot=-1), requests_in_step=0)
    held = decide(fresh, 1_100.0, few).state
    assert held.phase is Phase.STEPPING
    assert "about" in held.waits_for
    assert "requests more" in held.waits_for
    enough = replace(fresh, spec=replace(SPEC, each=replace(SPEC.each, promote_after=600)))
    done = decide(enough, 1_100.0, few).state
    assert done.phase is Phase.BAKING
    assert "600 requests are enough by the spec" in done.reason


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        (CandidatePool(workers=1, is_halted=True), "halted"),
        (CandidatePool(workers=0), "no worker"),
        (CandidatePool(workers=1, oldest_s=6.0, deadline_s=10.0), "over half of the deadline"),
    ],
)
@pytest.mark.parametrize("phase", [Phase.SHADOWING, Phase.STEPPING, Phase.PAUSED])
def test_a_guard_rolls_back_at_once_in_every_phase_with_traffic(pool: CandidatePool, says: str, phase: Phase) -> None:
    state = at_step(0 if phase is Phase.SHADOWING else 1)
    if phase is Phase.PAUSED:
        state = decide(state, 1_700.0).state
    assert state.phase is phase
    rolled = decide(state, 1_701.0, pool=pool)
    assert rolled.state.phase is Phase.ROLLING_BACK
    assert says in rolled.state.reason
    assert rolled.split is not None
    assert rolled.split.weights == {"v1": 1.0}


def test_three_model_errors_in_a_row_end_a_small_step() -> None:
    failing = CandidatePool(workers=1, failed_in_a_row=3)
    rolled = decide(at_step(1), 1_001.0, slot(1, (3, 3), (40, 0)), pool=failing).state
    assert rolled.phase is Phase.ROLLING_BACK
    assert "3 model errors in a row" in rolled.reason
    # Errors of requests that a client pinned to the candidate are none of the rollout's.
    assert decide(at_step(1), 1_001.0, slot(1, (3, 0), (40, 0)), pool=failing).state.phase is Phase.STEPPING
    # Ten end a larger one.
    many = CandidatePool(workers=1, failed_in_a_row=10)
    assert decide(at_step(2), 1_001.0, slot(1, (10, 10), (9, 0)), pool=many).state.reason.startswith("10 model errors")
    # What the stable version fails as well is no news of the candidate.
    incident = slot(1, (3, 3), (40_000, 39_000))
    assert decide(at_step(1), 1_001.0, incident, pool=failing).state.phase is Phase.STEPPING


def test_open_slots_count_at_once_and_are_not_counted_twice() -> None:
    state = at_step(1)
    bad = slot(1, (60, 30), (1_000, 10))
    first = step(state, Window(open=[bad], pool=READY), 1_001.0)
    assert first.state.phase is Phase.ROLLING_BACK
    good = slot(1, (60, 1), (1_000, 10))
    for _ in range(20):
        state = step(state, Window(open=[good], pool=READY), 1_001.0).state
    assert state.requests_in_step == 60


def test_failures_in_excess_of_the_budget_end_the_rollout_without_statistics() -> None:
    spec = replace(SPEC, exposure=Exposure(failed_requests=5), checks={Check.SHARE: CheckOptions()})
    rolled = decide(at_step(1, spec), 1_001.0, slot(1, (1_000, 60), (9_000, 90))).state
    assert rolled.phase is Phase.ROLLING_BACK
    assert "the budget is 5" in rolled.reason


def test_a_check_that_is_only_different_pauses_and_a_resume_accepts_it() -> None:
    ours = tally(400, answers={"a": 390, "b": 10})
    theirs = tally(400, answers={"a": 200, "b": 200})
    odd = LaneSlot(index=1, candidate=ours, stable=theirs)
    paused = decide(at_step(1), 1_001.0, odd).state
    assert (paused.phase, paused.paused_from) == (Phase.PAUSED, Phase.STEPPING)
    assert paused.reason.startswith("answers: apart")
    resumed = resume(paused, "", 1_002.0, "ann", generation=3)
    assert resumed.accepted == (Check.ANSWERS,)
    assert decide(resumed, 1_003.0).state.phase is Phase.STEPPING


def test_what_a_check_does_may_be_changed() -> None:
    spec = replace(SPEC, checks={Check.ERRORS: CheckOptions(then=Then.PAUSE)})
    assert decide(at_step(1, spec), 1_001.0, slot(1, (100, 40), (900, 9))).state.phase is Phase.PAUSED


def test_another_share_than_asked_for_pauses() -> None:
    odd = slot(1, (300, 0), (700, 0), weight=0.05)
    paused = decide(at_step(1), 1_001.0, odd).state
    assert paused.phase is Phase.PAUSED
    assert "another share" in paused.reason


def test_slower_runs_of_as_many_rows_roll_back_and_small_batches_do_not() -> None:
    fast, slow = run_bin(1, 0.001), run_bin(1, 0.01)
    small, large = run_bin(1, 0.01), run_bin(64, 0.002)
    spec = replace(SPEC, checks={Check.LATENCY: CheckOptions()})
    learnt = fold(Learnt(), [LaneSlot(index=0, candidate=tally(0), stable=tally(0, runs={fast: 500}))], spec.checks)
    state = replace(at_step(1, spec), evidence=to_record(learnt, through_slot=0))
    worse = LaneSlot(index=1, candidate=tally(50, runs={slow: 40, fast: 10}), stable=tally(900, runs={fast: 900}))
    assert decide(state, 1_001.0, worse).state.reason.startswith("latency: worse")
    apart = LaneSlot(index=1, candidate=tally(50, runs={small: 50}), stable=tally(900, runs={large: 20}))
    assert decide(state, 1_001.0, apart).state.phase is Phase.STEPPING


def test_a_candidate_that_breaks_with_all_traffic_is_rolled_back() -> None:
    spec = replace(SPEC, steps=(Step(weight=0.5), Step(weight=1.0)))
    state = at_step(1, spec)
    assert weight_of(state) == 1.0
    rolled = decide(state, 1_001.0, slot(1, (200, 30))).state
    assert rolled.phase is Phase.ROLLING_BACK
    assert "with all traffic" in rolled.reason


def by_hand(generation: int) -> Split:
    return Split(model="iris", weights={"v1": 0.5, "v2": 0.5}, changed_s=900.0, generation=generation)


def test_a_split_made_by_hand_pauses_the_rollout_and_is_not_overwritten() -> None:
    state = at_step(1)
    decision = decide(state, 1_001.0, split=by_hand(4))
    assert decision.state.phase is Phase.PAUSED
    assert "by hand" in decision.state.reason
    assert decision.split is None
    # Their split, their guard: what it does to the candidate is not the rollout's doing.
    again = decide(decision.state, 1_002.0, split=by_hand(4), pool=CandidatePool(workers=0))
    assert (again.state.phase, again.split) == (Phase.PAUSED, None)
    taken_back = resume(again.state, "", 1_003.0, generation=5)
    back = decide(taken_back, 1_004.0, split=by_hand(4))
    assert back.split is not None
    assert (back.split.generation, back.split.weights) == (5, {"v1": 0.95, "v2": 0.05})


def test_the_split_from_before_the_rollout_is_no_interference() -> None:
    assert decide(at_step(1), 1_001.0, split=by_hand(2)).state.phase is Phase.STEPPING


def test_an_older_api_writes_no_generation_and_still_pauses_the_rollout() -> None:
    assert decide(at_step(1), 1_001.0, split=by_hand(0)).state.phase is Phase.PAUSED


def test_a_rollback_ends_when_the_split_is_in_force_and_the_backlog_is_gone() -> None:
    state = roll_back(at_step(1), "errors: worse", 1_001.0)
    wanted = split_of(state, 1_001.0)
    assert decide(state, 1_002.0, is_backlog_done=True).state.waits_for == "the split to be in force"
    waiting = decide(state, 1_003.0, split=wanted).state
    assert waiting.waits_for == "the candidate's backlog"
    done = decide(waiting, 1_004.0, split=wanted, is_backlog_done=True)
    assert (done.state.phase, done.state.reason) == (Phase.ROLLED_BACK, "errors: worse")
    assert done.split is not None
    assert done.split.rollout == ""
    assert decide(waiting, 1_700.0, split=wanted).state.phase is Phase.ROLLED_BACK


def test_lanes_that_the_rollout_leaves_alone_stay_with_the_stable_version() -> None:
    bulk_only = replace(SPEC, lanes=(Lane.BULK,))
    split = split_of(at_step(1, bulk_only), 1.0)
    assert split.lane_weights == {Lane.REQUESTS: {"v1": 1.0}}


def test_promotion_by_hand_still_bakes() -> None:
    state = promote(at_step(1), "", 1_001.0, "ann", generation=0)
    assert (state.phase, weight_of(state)) == (Phase.BAKING, 1.0)


SLOTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 4), st.integers(0, 400), st.integers(0, 8), st.integers(0, 30)),
    min_size=1,
    max_size=25,
)


def slots_of(numbers: Sequence[tuple[int, int, int, int, int]]) -> list[LaneSlot]:
    found = []
    for index, (ours, bad, theirs, also_bad, shadow) in enumerate(numbers):
        said = {"a": ours, "b": theirs % 7}
        found.append(
            LaneSlot(
                index=index,
                candidate=tally(max(ours, bad), bad, answers=said, runs={run_bin(1, 0.001): 3}),
                stable=tally(max(theirs, also_bad), also_bad, answers=said, runs={run_bin(1, 0.001): 60}),
                shadow=tally(shadow) if shadow else None,
            )
        )
    return found


@given(SLOTS, st.integers(1, 5))
def test_a_controller_that_is_killed_at_any_moment_goes_on_as_if_it_was_not(
    numbers: list[tuple[int, int, int, int, int]], every: int
) -> None:
    """The state is written and read anew, and the window may reach further back than the slots that it has seen."""

    def run(killed: Callable[[int], bool]) -> list[RolloutState]:
        state, states = started(replace(SPEC, each=Pace(min_requests=20, min_time_s=0.0), bake_s=3.0)), []
        for number, one in enumerate(slots_of(numbers)):
            if killed(number):
                read = decode_rollout(key_of(state), encode_rollout(state))
                assert isinstance(read, RolloutState)
                state = read
            state = decide(state, float(number + 1), one).state
            states.append(state)
        return states

    plain, killed = run(lambda _: False), run(lambda number: number % every == 0)
    assert [(one.phase, one.step, one.events) for one in plain] == [(one.phase, one.step, one.events) for one in killed]


@given(SLOTS)
def test_a_final_state_never_changes_and_every_weight_is_of_its_step(numbers: list[tuple[int, ...]]) -> None:
    state = started()
    for number, one in enumerate(slots_of(numbers)):  # type: ignore[arg-type]  # five numbers each
        after = decide(state, 10.0 * number, one).state
        if state.phase.is_final:
            assert after == state
        assert weight_of(after) in {0.0, 0.05, 0.5, 1.0}
        assert math.isclose(sum(split_of(after, 0.0).weights.values()), 1.0)
        state = after


def test_evidence_is_read_as_it_was_written() -> None:
    learnt = fold(Learnt(), slots_of([(40, 2, 300, 5, 10)] * 3), SPEC.checks)
    read = from_record(to_record(learnt, through_slot=2))
    assert (read.runs, read.sums) == (learnt.runs, learnt.sums)
    assert read.errors.tolist() == learnt.errors.tolist()
    assert read.answers.labels == learnt.answers.labels
    assert read.answers.candidate.tolist() == learnt.answers.candidate.tolist()
    assert read.answers.ratios.tolist() == learnt.answers.ratios.tolist()


def test_splits_are_compared_without_their_time() -> None:
    state = at_step(1)
    assert is_same(split_of(state, 1.0), split_of(state, 2.0))


def with_old_evidence(state: RolloutState) -> RolloutState:
    """As another release wrote it: the arrays have another shape."""
    numbers = state.evidence.numbers | {"counts": zlib.compress(bytes(16))}
    return replace(state, evidence=replace(state.evidence, numbers=numbers))


def test_evidence_that_cannot_be_read_is_collected_anew_and_decides_nothing() -> None:
    state = with_old_evidence(at_step(1))
    decision = decide(state, 2_000.0, slot(5, (400, 4), (7_600, 76)))
    held = decision.state
    assert [event.phase for event in decision.events] == [Phase.STEPPING]
    assert "cannot be read" in held.reason
    # What was counted before is gone with it, and the time of the step as well.
    assert (held.phase, held.step, held.waits_for) == (Phase.STEPPING, 1, "400 of 500 requests, 10 s more")
    assert held.evidence.through_slot == 5
    later = decide(held, 2_020.0, slot(6, (400, 4), (7_600, 76)))
    assert (later.state.step, later.state.phase) == (2, Phase.STEPPING)


def test_without_evidence_and_a_stable_version_to_compare_with_a_person_decides() -> None:
    baking = with_old_evidence(promote(at_step(1), "", 1_000.0, generation=4))
    decision = decide(baking, 5_000.0, slot(5, (4_000, 40)))
    assert (decision.state.phase, decision.state.paused_from) == (Phase.PAUSED, Phase.BAKING)
    assert "nothing is left to compare the candidate with" in decision.state.reason


def test_a_rollback_goes_on_and_keeps_its_reason_if_the_evidence_cannot_be_read() -> None:
    state = with_old_evidence(roll_back(at_step(1), "too slow", 1_000.0))
    decision = decide(state, 1_001.0, split=split_of(state, 1_001.0), is_backlog_done=True)
    assert (decision.state.phase, decision.state.reason) == (Phase.ROLLED_BACK, "too slow")


def test_a_pool_that_was_scaled_to_zero_for_want_of_work_is_no_fault_and_one_that_does_not_come_back_is() -> None:
    idle = CandidatePool(workers=0, lag_records=0, is_probed=True)
    assert decide(at_step(1), 1_100.0, pool=idle).state.phase is Phase.STEPPING
    waking = dataclasses.replace(idle, lag_records=1, waits_s=5.0)
    assert decide(at_step(1), 1_100.0, pool=waking).state.phase is Phase.STEPPING
    gone = dataclasses.replace(idle, lag_records=1, waits_s=31.0)
    decision = decide(at_step(1), 1_100.0, pool=gone)
    assert (decision.state.phase, decision.state.reason) == (Phase.ROLLING_BACK, "no worker of the candidate is there")

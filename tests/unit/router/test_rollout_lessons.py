"""What users of other controllers report in their trackers, each point as a rollout here: docs/rollout-lessons.md."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from inferlane.contracts.lane_tallies import LaneTally
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import Check, CheckOptions, Exposure, Pace, Phase, RolloutSpec, RolloutState, Step
from router.rollouts.controller import Window, step
from router.rollouts.evidence import LaneSlot
from router.rollouts.guards import CandidatePool
from router.rollouts.states import begin, pause, promote, roll_back, split_of, weight_of

REPOSITORY = Path(__file__).parents[3]
READY = CandidatePool(workers=1, is_probed=True, lag_records=0)
SPEC = RolloutSpec(
    model="iris",
    candidate="v2",
    stable="v1",
    steps=(Step(shadow=0.5), Step(weight=0.1), Step(weight=0.5)),
    each=Pace(min_requests=500, min_time_s=0.0, max_wait_s=600.0),
    exposure=Exposure(failed_requests=10**6),
    bake_s=60.0,
    prepare_s=100.0,
    checks={Check.ERRORS: CheckOptions(), Check.AGREEMENT: CheckOptions(agreement=0.9)},
)
REQUESTS = 20_000
PHASES = [Phase.SHADOWING, Phase.STEPPING, Phase.BAKING, Phase.PAUSED]


def tally(requests: int, failing: float = 0.01) -> LaneTally:
    failed = int(requests * failing)
    rows = {"compared": requests, "agreed": requests - failed}
    return LaneTally(rollout="r", lane=Lane.REQUESTS, requests=requests, failed=failed, **rows)


def decide(state: RolloutState, *, requests: int = 0, failing: float = 0.01, after_s: float = 5.0) -> RolloutState:
    """One decision `after_s` after the last one, with so many requests meanwhile, split as the state asks."""
    now_s, weight = state.phase_since_s + after_s, weight_of(state)
    if state.phase is Phase.STEPPING:
        now_s = max(now_s, state.step_since_s + after_s)
    ours, index = int(requests * weight), state.evidence.through_slot + 1
    is_shadow = state.phase is Phase.SHADOWING and requests > 0
    slot = LaneSlot(
        index=index,
        candidate=tally(ours, failing),
        stable=tally(requests - ours),
        shadow=tally(requests // 2, failing) if is_shadow else None,
    )
    window = Window(closed=[slot], through_slot=index, pool=READY, split=split_of(state, now_s))
    return step(state, window, now_s).state


def in_phase(phase: Phase) -> RolloutState:
    state = begin(RolloutState(id="r", spec=SPEC, generation=1), "", 0.0)
    wanted = Phase.STEPPING if phase is Phase.PAUSED else phase
    for _ in range(20):
        if state.phase is wanted and not (phase is Phase.PAUSED and state.step == 0):
            return pause(state, "by hand", state.phase_since_s + 1) if phase is Phase.PAUSED else state
        state = decide(state, requests=REQUESTS)
    raise AssertionError(f"never {phase}: {state.phase}, {state.waits_for}")


def test_traffic_that_stops_in_a_step_advances_nothing_and_fails_nothing() -> None:
    """flagger#1011: it went on; flagger#1035 and argo#1905: it was called a failure."""
    state = decide(in_phase(Phase.STEPPING), requests=3_000)
    assert (state.phase, state.step, state.waits_for.split(",")[0]) == (Phase.STEPPING, 1, "300 of 500 requests")
    for _ in range(100):
        state = decide(state)
        assert (state.phase, state.step) == (Phase.STEPPING, 1)
    paused = decide(state, after_s=601.0)
    assert (paused.phase, weight_of(paused)) == (Phase.PAUSED, 0.1)
    assert "300 of 500 requests" in paused.reason


def test_traffic_that_stops_with_all_of_it_on_the_candidate_promotes_nothing() -> None:
    state = in_phase(Phase.BAKING)
    held = decide(state, after_s=61.0)
    assert (held.phase, held.waits_for) == (Phase.BAKING, "no request with all traffic on the candidate")
    assert decide(held, requests=1, after_s=62.0).phase is Phase.PROMOTED
    paused = decide(held, after_s=700.0)
    assert (paused.phase, weight_of(paused)) == (Phase.PAUSED, 1.0)
    assert "no request with all traffic" in paused.reason
    # A person who promotes it knows.
    by_hand = promote(paused, "", paused.phase_since_s, generation=2)
    assert decide(by_hand, after_s=61.0).phase is Phase.PROMOTED


@pytest.mark.parametrize("phase", PHASES)
def test_a_check_that_fails_rolls_back_in_every_phase_in_which_the_candidate_has_traffic(phase: Phase) -> None:
    """flagger#1801: not while it waited for a confirmation; argo#1411: not at all."""
    state = in_phase(phase)
    failed = decide(state, requests=REQUESTS, failing=0.3)
    assert failed.phase is Phase.ROLLING_BACK, failed
    assert failed.reason.startswith("with all traffic, " if phase is Phase.BAKING else "errors: worse: ")
    assert split_of(failed, 0.0).weights == {"v1": 1.0}


def test_bursts_with_long_gaps_are_judged_as_the_same_requests_in_a_row_are() -> None:
    """flagger#1501: a failure counter that runs by the clock counts the gaps."""
    in_a_row = with_gaps = replace(in_phase(Phase.STEPPING), spec=replace(SPEC, each=Pace(min_requests=10**6)))
    for _ in range(5):
        in_a_row = decide(in_a_row, requests=400)
        with_gaps = decide(with_gaps, requests=400)
        for _ in range(200):
            with_gaps = decide(with_gaps)
    assert with_gaps.verdicts == in_a_row.verdicts
    assert with_gaps.verdicts[0].candidate_requests > 0
    assert (with_gaps.phase, with_gaps.requests_in_step) == (Phase.STEPPING, in_a_row.requests_in_step)


def preparing() -> RolloutState:
    return begin(RolloutState(id="r", spec=SPEC, generation=1), "", 0.0)


def rolling_back() -> RolloutState:
    return roll_back(in_phase(Phase.STEPPING), "", 0.0)


@pytest.mark.parametrize(
    "begun",
    [preparing, rolling_back, *(lambda phase=phase: in_phase(phase) for phase in PHASES[:3])],
    ids=["preparing", "rolling back", *PHASES[:3]],
)
def test_no_phase_lasts_for_ever_without_news(begun: Callable[[], RolloutState]) -> None:
    """argo#1107: an analysis that runs for ever."""
    state = begun()
    window = Window(pool=CandidatePool(workers=1, lag_records=5), split=split_of(state, 0.0))
    now_s = max(state.phase_since_s, state.step_since_s) + 700.0
    after = step(state, window, now_s).state
    assert after.phase is Phase.PAUSED or after.phase.is_final, after


def test_the_history_says_how_many_requests_each_step_had() -> None:
    state = in_phase(Phase.BAKING)
    counted = {(event.was, event.phase): event.requests for event in state.events}
    assert counted[Phase.SHADOWING, Phase.STEPPING] == REQUESTS // 2
    assert counted[Phase.STEPPING, Phase.BAKING] == REQUESTS // 2


def test_each_test_that_the_page_names_exists() -> None:
    page = (REPOSITORY / "docs" / "rollout-lessons.md").read_text()
    names = set(re.findall(r"`(test_\w+|\w+_\w+)`", page))
    sources = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (\w+)\(", sources, re.MULTILINE))
    assert {name for name in names if name.startswith("test_")} <= defined
    assert {"is_bulk", "hangs_in_bulk", "has_both_lanes", "breaks_late"} <= names & defined

"""Checks on numbers from outside: no data holds and pauses, feedback is compared by day, with bounds that hold."""

from collections.abc import Mapping

import numpy as np
import pytest
from msgspec.structs import replace

from inferlane.contracts.feedback import Sums
from inferlane.contracts.lane_tallies import LaneTally
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import Check, CheckOptions, Pace, Phase, RolloutSpec, RolloutState, Step, Then, Verdict
from router.rollouts.controller import Window, step
from router.rollouts.evidence import LaneSlot
from router.rollouts.guards import CandidatePool
from router.rollouts.outside_checks import (
    FeedbackReading,
    MetricReading,
    Reading,
    feedback_reading,
    judge_feedback,
    judge_metric,
    pieces_to_show,
)
from router.rollouts.states import begin, split_of

METRIC = CheckOptions(query="up", max=2.0, then=Then.ROLL_BACK)
SPEC = RolloutSpec(
    model="iris",
    candidate="v2",
    stable="v1",
    steps=(Step(weight=0.5),),
    each=Pace(min_requests=100, min_time_s=0.0, max_wait_s=100.0),
    bake_s=10.0,
    checks={Check.PROMETHEUS: METRIC},
)


def started(spec: RolloutSpec = SPEC) -> RolloutState:
    state = begin(RolloutState(id="r", spec=spec, generation=1), "", 0.0)
    return decide(state, 1.0)


def decide(
    state: RolloutState, now_s: float, readings: Mapping[Check, Reading] | None = None, requests: int = 0
) -> RolloutState:
    sides = [LaneTally(rollout="r", lane=Lane.REQUESTS, requests=requests) for _ in range(2)]
    slot = LaneSlot(index=int(now_s), candidate=sides[0], stable=sides[1])
    window = Window(
        closed=[slot],
        through_slot=int(now_s),
        pool=CandidatePool(workers=1, is_probed=True),
        split=split_of(state, now_s),
        readings=readings or {},
    )
    return step(state, window, now_s).state


def value(number: float) -> Mapping[Check, Reading]:
    return {Check.PROMETHEUS: MetricReading(value=number)}


def test_a_query_without_a_value_holds_says_so_and_pauses() -> None:
    missing = {Check.PROMETHEUS: MetricReading(missing="the query has no series")}
    state = decide(started(), 2.0, missing, requests=5_000)
    assert (state.phase, state.waits_for) == (Phase.STEPPING, "prometheus: no data: the query has no series")
    paused = decide(state, 102.0, missing)
    assert paused.phase is Phase.PAUSED
    assert "the query has no series" in paused.reason
    assert decide(state, 50.0, value(1.0)).phase is Phase.BAKING


def test_nothing_is_promoted_while_the_query_has_no_value() -> None:
    baking = decide(started(), 2.0, value(1.0), requests=5_000)
    assert baking.phase is Phase.BAKING
    held = decide(baking, 20.0, requests=1)
    assert (held.phase, held.waits_for) == (Phase.BAKING, "prometheus: no data: it was not asked yet")
    assert decide(held, 21.0, value(1.0)).phase is Phase.PROMOTED
    paused = decide(held, 113.0)
    assert (paused.phase, paused.paused_from) == (Phase.PAUSED, Phase.BAKING)


@pytest.mark.parametrize(
    ("number", "options", "is_failed"),
    [
        (2.0, METRIC, False),
        (2.1, METRIC, True),
        (0.4, CheckOptions(query="up", min=0.5), True),
        (0.5, CheckOptions(query="up", min=0.5, max=0.6), False),
    ],
)
def test_a_value_out_of_its_bounds_fails(number: float, options: CheckOptions, *, is_failed: bool) -> None:
    verdict = judge_metric(options, MetricReading(value=number))
    assert (verdict.is_failed, verdict.is_enough) == (is_failed, not is_failed)


def test_a_value_out_of_its_bounds_rolls_back_or_pauses_as_the_check_says() -> None:
    assert decide(started(), 2.0, value(3.0)).phase is Phase.ROLLING_BACK
    milder = replace(SPEC, checks={Check.PROMETHEUS: replace(METRIC, then=Then.PAUSE)})
    assert decide(started(milder), 2.0, value(3.0)).phase is Phase.PAUSED


def day_sums(rng: np.random.Generator, mean: float, *, keyed: int, free: int) -> dict[int, Sums]:
    """Rewards of one day: `keyed` users with many alike, `free` pieces of nobody."""
    sums = {}
    alone = rng.normal(mean, 1, free)
    if free:
        sums[-1] = Sums(free, float(alone.sum()), float((alone**2).sum()))
    for segment in rng.choice(1_024, keyed, replace=False):
        values = rng.normal(mean, 1) + rng.normal(0, 0.1, rng.integers(1, 30))
        sums[int(segment)] = Sums(len(values), float(values.sum()), float((values**2).sum()))
    return sums


def compared(seed: int, effect: float, *, days: int = 15) -> list[FeedbackReading]:
    """Readings after each day; the mean moves for both versions from day to day."""
    rng = np.random.default_rng(seed)
    ours: dict[int, dict[int, Sums]] = {}
    theirs: dict[int, dict[int, Sums]] = {}
    found = []
    for day in range(days):
        base = float(rng.normal(5, 3))
        ours[day] = day_sums(rng, base + effect, keyed=40, free=50)
        theirs[day] = day_sums(rng, base, keyed=100, free=150)
        found.append(feedback_reading(ours, theirs))
    return found


OPTIONS = CheckOptions(margin=0.5, min_count=100)


def verdicts(seed: int, effect: float) -> list[tuple[bool, bool]]:
    found = [judge_feedback(Check.REWARD, OPTIONS, reading) for reading in compared(seed, effect)]
    return [(one.is_failed, one.is_enough) for one in found]


def test_an_equal_candidate_is_never_called_worse_and_in_the_end_no_worse() -> None:
    runs = [verdicts(seed, 0.0) for seed in range(100)]
    assert sum(any(failed for failed, _ in run) for run in runs) <= 1
    assert sum(run[-1][1] for run in runs) >= 90


def test_a_candidate_that_is_worse_than_the_margin_is_called_so_and_never_enough() -> None:
    runs = [verdicts(seed, -1.5) for seed in range(60)]
    assert sum(run[-1][0] for run in runs) >= 54
    at_margin = [verdicts(seed, -0.5) for seed in range(100)]
    assert sum(any(enough for _, enough in run) for run in at_margin) <= 5


def test_without_a_moving_base_the_estimate_is_the_difference_of_the_means() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = day_sums(rng, 2.0, keyed=0, free=400), day_sums(rng, 1.0, keyed=0, free=900)
    found = feedback_reading({1: ours}, {1: theirs}).difference(alpha=0.05)
    assert found is not None
    means = [side[-1].total / side[-1].count for side in (ours, theirs)]
    assert found.estimate == pytest.approx(means[0] - means[1])
    assert found.low < 1.0 < found.high


def test_days_on_which_one_version_has_no_feedback_are_left_out() -> None:
    rng = np.random.default_rng(1)
    one = day_sums(rng, 1.0, keyed=5, free=5)
    reading = feedback_reading({1: one, 2: one}, {2: one, 3: one})
    assert reading.counts == (sum(held.count for held in one.values()),) * 2
    assert feedback_reading({1: one}, {2: one}).difference(alpha=0.05) is None


def test_too_little_feedback_is_no_verdict_and_holds_before_all_traffic() -> None:
    spec = replace(
        SPEC, checks={Check.QUALITY: CheckOptions(margin=0.05, min_count=50)}, steps=(Step(weight=0.5), Step(weight=1))
    )
    state = decide(started(spec), 2.0, requests=5_000)
    assert state.phase is Phase.STEPPING
    assert state.waits_for == "quality: no data: 0 of 50 pieces of feedback on the candidate"
    paused = decide(state, 103.0)
    assert paused.phase is Phase.PAUSED
    same = {-1: Sums(5_000, 4_500.0, 4_500.0)}
    reading = feedback_reading({1: same}, {1: same})
    known = decide(state, 3.0, {Check.QUALITY: reading})
    assert (known.phase, known.step) == (Phase.STEPPING, 1)
    better_left = {-1: Sums(5_000, 4_900.0, 4_900.0)}
    worse = feedback_reading({1: same}, {1: better_left})
    assert decide(state, 3.0, {Check.QUALITY: worse}).phase is Phase.PAUSED


def test_as_many_pieces_as_a_plan_names_show_an_equal_candidate_and_half_of_them_do_not() -> None:
    options = CheckOptions(margin=0.02)
    pieces = pieces_to_show(0.9 * 0.1, margin=options.margin)

    def verdict(count: int) -> Verdict:
        sums = {1: {-1: Sums(count=count, total=0.9 * count, squares=0.9 * count)}}
        return judge_feedback(Check.QUALITY, options, feedback_reading(sums, sums))

    assert verdict(int(1.1 * pieces)).is_enough
    assert not verdict(pieces // 2).is_enough

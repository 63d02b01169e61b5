"""The HPA: the vectors of Kubernetes 1.35.0, pkg/controller/podautoscaler/*_test.go, and what holds for any load."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.autoscaling.hpa import (
    Behavior,
    HorizontalAutoscaler,
    MetricValue,
    RateLimits,
    ScalingPolicy,
    ScalingRules,
    replicas_by_metrics,
    replicas_for,
)

DEFAULTS = Behavior().complete()
NOW_S = 10_000.0


def rules(pods: int, pods_period_s: int, percent: int, percent_period_s: int, window_s: int = 0) -> ScalingRules:
    """`generateScalingRules` of horizontal_test.go."""
    policies = []
    if pods:
        policies.append(ScalingPolicy(type="Pods", value=pods, period_seconds=pods_period_s))
    if percent:
        policies.append(ScalingPolicy(type="Percent", value=percent, period_seconds=percent_period_s))
    return ScalingRules(stabilization_window_seconds=window_s, select_policy="Max", policies=tuple(policies))


def remembered(up: ScalingRules, down: ScalingRules, added: list[int], removed: list[int]) -> RateLimits:
    """Limits with changes spread evenly over the last 120 s (`generateEventsUniformDistribution`)."""
    limits = RateLimits(Behavior(scale_up=up, scale_down=down).complete())
    for changes, sign in ((added, 1), (removed, -1)):
        segment_s = 120 / max(1, len(changes))
        for index, replicas in enumerate(changes):
            age_s = 120 - segment_s * (index + 1) + segment_s / 2
            limits.note(1_000, 1_000 + sign * replicas, now_s=NOW_S - age_s)
    return limits


UNSET = ScalingRules()
EVENTS = [1, 5, 9]


class Growth(NamedTuple):
    """One row of `TestScalingWithRules`."""

    current: int
    desired: int
    least: int
    most: int
    up: ScalingRules
    added: list[int]
    removed: list[int]
    expected: int


class Shrinking(NamedTuple):
    """One row of the same."""

    current: int
    desired: int
    least: int
    down: ScalingRules
    added: list[int]
    removed: list[int]
    expected: int


class Stabilization(NamedTuple):
    """One row of `TestNormalizeDesiredReplicasWithBehavior`: what was asked for that long ago, and both windows."""

    asked: list[int]
    ages_s: list[float]
    current: int
    desired: int
    up_s: int
    down_s: int
    expected: int


@pytest.mark.parametrize(
    "row",
    [
        Growth(5, 7, 3, 8, UNSET, [], [], 7),
        Growth(20, 1000, 1, 10, UNSET, [], [], 10),
        Growth(100, 1000, 100, 150, UNSET, [], [], 150),
        Growth(3, 1000, 1, 2000, rules(0, 0, 1, 60), [], [], 4),
        Growth(10, 50, 1, 1000, UNSET, [], [], 20),
        Growth(10, 500, 1, 1000, rules(100, 60, 100, 60), [], [], 110),
        Growth(10, 500, 1, 1000, rules(2, 60, 100, 60), [], [], 20),
        Growth(10, 50, 1, 1000, rules(100, 60, 0, 0), [], [], 50),
        Growth(10, 50, 1, 1000, rules(30, 60, 0, 0), [], [], 40),
        Growth(10, 50, 1, 1000, rules(0, 0, 200, 60), [], [], 30),
        Growth(100, 500, 1, 200, rules(300, 60, 0, 0), EVENTS, [], 200),
        Growth(100, 500, 1, 200, rules(0, 0, 10000, 60), EVENTS, [], 200),
        Growth(100, 500, 1, 1000, rules(5, 120, 0, 0), EVENTS, [], 100),
        Growth(100, 500, 1, 1000, rules(150, 120, 0, 0), EVENTS, [], 235),
        Growth(100, 500, 1, 1000, rules(0, 0, 200, 120), EVENTS, [], 255),
        Growth(6, 24, 1, 1000, rules(0, 0, 300, 300), [4], [2], 16),
        Growth(100, 200, 1, 1000, rules(1000, 30, 100, 60), [8, 12, 9, 11], [], 200),
    ],
)
def test_growth_is_limited_as_in_test_scaling_with_rules(row: Growth) -> None:
    limits = remembered(row.up, UNSET, row.added, row.removed)
    if row.current > row.most:
        # The controller cuts a pool that is too large before it looks at any rate.
        hpa = HorizontalAutoscaler(DEFAULTS, least=row.least, most=row.most)
        assert hpa.step(row.current, [], now_s=0) == row.expected
    else:
        bounded = limits.bound(row.current, row.desired, least=row.least, most=row.most, now_s=NOW_S)
        assert bounded == row.expected


@pytest.mark.parametrize(
    "row",
    [
        Shrinking(3, 1, 2, UNSET, [], [], 2),
        Shrinking(1, 0, 0, UNSET, [], [], 0),
        Shrinking(1000, 3, 3, rules(20, 60, 0, 0), [], [], 980),
        Shrinking(100, 2, 1, rules(20, 60, 1, 60, 300), [], [], 80),
        Shrinking(100, 2, 1, rules(2, 60, 1, 60, 300), [], [], 98),
        Shrinking(10, 0, 1, rules(100, 60, 0, 0, 300), [], [], 1),
        Shrinking(10, 2, 5, rules(0, 0, 100, 60, 300), [], [], 5),
        Shrinking(10, 2, 1, rules(5, 60, 0, 0, 300), [], [], 5),
        Shrinking(10, 5, 1, rules(0, 0, 50, 60, 300), [], [], 5),
        Shrinking(10, 5, 1, UNSET, [], EVENTS, 5),
        Shrinking(100, 0, 1, rules(115, 120, 0, 0, 300), [], EVENTS, 1),
        Shrinking(100, 2, 1, rules(5, 120, 0, 0, 300), [], EVENTS, 100),
        Shrinking(100, 0, 1, rules(0, 0, 50, 120, 300), [], [2, 4, 6], 56),
        Shrinking(10, 1, 1, rules(0, 0, 50, 180), [2], [4], 6),
        Shrinking(100, 0, 1, rules(0, 0, 10, 120, 300), [], [10, 10, 10], 100),
        Shrinking(10, 5, 1, rules(0, 0, 1000, 120, 300), [], [10, 10, 10], 5),
    ],
)
def test_shrinking_is_limited_as_in_test_scaling_with_rules(row: Shrinking) -> None:
    limits = remembered(UNSET, row.down, row.added, row.removed)
    assert limits.bound(row.current, row.desired, least=row.least, most=2_000, now_s=NOW_S) == row.expected


def test_min_takes_the_smallest_change_in_either_direction_and_disabled_none() -> None:
    """`TestCalculateScaleUpLimitWithScalingRules` (1 → 2) and `TestCalculateScaleDownLimitWithBehaviors` (5 → 3)."""
    policies = rules(2, 60, 50, 60).policies
    least = ScalingRules(select_policy="Min", policies=policies)
    limits = remembered(least, least, [], [])
    assert limits.bound(1, 100, least=1, most=100, now_s=NOW_S) == 2
    assert limits.bound(5, 0, least=1, most=100, now_s=NOW_S) == 3
    never = ScalingRules(select_policy="Disabled", policies=policies)
    assert remembered(never, never, [], []).bound(5, 0, least=1, most=100, now_s=NOW_S) == 5


@pytest.mark.parametrize(
    "row",
    [
        Stabilization([], [], 100, 5, 0, 0, 5),
        Stabilization([4, 5], [120, 60], 100, 3, 0, 180, 5),
        Stabilization([4, 5], [120, 60], 1, 7, 300, 0, 4),
        Stabilization([1, 2], [120, 60], 100, 3, 300, 0, 3),
        Stabilization([4, 5], [120, 60], 1, 3, 0, 300, 3),
        Stabilization([10, 9], [600, 540], 100, 3, 0, 0, 3),
        Stabilization([10, 9], [600, 540], 1, 100, 0, 0, 100),
        Stabilization([10, 4, 5, 9], [600, 60, 120, 540], 100, 3, 0, 180, 5),
        Stabilization([10, 6, 5, 9], [6000, 60, 120, 180], 1, 100, 300, 0, 5),
        Stabilization([2, 3], [6000, 180], 2, 1, 300, 300, 2),
        Stabilization([2, 1], [6000, 180], 2, 3, 300, 300, 2),
    ],
)
def test_recommendations_are_stabilized_as_in_test_normalize_desired_replicas_with_behavior(row: Stabilization) -> None:
    behavior = Behavior(
        scale_up=ScalingRules(stabilization_window_seconds=row.up_s),
        scale_down=ScalingRules(stabilization_window_seconds=row.down_s),
    ).complete()
    hpa = HorizontalAutoscaler(behavior, least=1, most=1_000)
    hpa._asked = [(replicas, NOW_S - age_s) for replicas, age_s in zip(row.asked, row.ages_s, strict=True)]
    assert hpa.stabilized(row.current, row.desired, now_s=NOW_S) == row.expected


@pytest.mark.parametrize(
    ("value", "threshold", "current", "expected"),
    [
        (8_600, 2_222, 3, 4),  # TestScaleUpPerPodCMExternal, TestReplicaCalcScaleUpPerPodCMExternal
        (8_600, 3_000, 5, 3),  # TestScaleDownPerPodCMExternal
        (8_600, 2_867, 3, 3),  # TestReplicaCalcTolerancePerPodCMExternal
        (192_000, 3_000, 63, 63),  # KEDA issue #2908: the 64th of 64 is never asked for from 63
        (24, 1, 22, 22),  # KEDA issue #4791: 24 partitions, stuck at 22 of 24
        (24, 1, 21, 24),
        (0, 10, 3, 0),
    ],
)
def test_a_metric_asks_for_replicas_as_in_the_tests_of_the_replica_calculator(
    value: int, threshold: int, current: int, expected: int
) -> None:
    assert replicas_for(MetricValue(value, threshold), current, DEFAULTS) == expected


def test_the_largest_of_the_lanes_counts_and_a_pool_never_shrinks_while_one_is_unread() -> None:
    low, high = MetricValue(10, 10), MetricValue(50, 10)
    assert replicas_by_metrics([low, high], 3, DEFAULTS) == 5
    assert replicas_by_metrics([None, high], 3, DEFAULTS) == 5
    assert replicas_by_metrics([None, low], 3, DEFAULTS) is None
    assert replicas_by_metrics([None, None], 3, DEFAULTS) is None


def test_a_pool_at_zero_is_left_to_keda() -> None:
    assert HorizontalAutoscaler(DEFAULTS, least=1, most=5).step(0, [MetricValue(1_000, 1)], now_s=0) == 0


@given(
    st.lists(st.integers(0, 5_000), min_size=1, max_size=60),
    st.integers(1, 100),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_no_load_takes_a_pool_past_its_bounds(lags: list[int], threshold: int, least: int, more: int) -> None:
    hpa = HorizontalAutoscaler(DEFAULTS, least=least, most=least + more)
    replicas = least
    for step, lag in enumerate(lags):
        replicas = hpa.step(replicas, [MetricValue(lag, threshold)], now_s=15.0 * step)
        assert least <= replicas <= least + more


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 50))
def test_a_pool_with_no_lag_shrinks_as_fast_as_its_rules_and_no_faster(pods: int, steps: int, size: int) -> None:
    """Guards the memory of changes: without it, so many pods a period are so many a step."""
    slow = Behavior(scale_down=rules(pods, 15 * steps, 0, 0)).complete()
    hpa = HorizontalAutoscaler(slow, least=1, most=50)
    sizes = [size]
    for step in range(steps * size):
        sizes.append(hpa.step(sizes[-1], [MetricValue(0, 10)], now_s=15.0 * step))
    assert all(later >= earlier - pods for earlier, later in zip(sizes, sizes[steps:], strict=False))
    assert sizes[-1] == 1


@given(st.integers(1, 50), st.integers(0, 100_000), st.integers(0, 100_000), st.integers(1, 1_000))
def test_more_lag_never_asks_for_less(current: int, lag: int, more: int, threshold: int) -> None:
    """Within the tolerance a pool stays as it is, which may be one more than the rounding gives just beyond."""
    less, greater = (replicas_for(MetricValue(value, threshold), current, DEFAULTS) for value in (lag, lag + more))
    assert less <= greater

"""KEDA's kafka scaler: the vectors of its own tests and issues, and what holds for any lag."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.autoscaling.desired_replicas import (
    PartitionOffsets,
    balanced_replicas,
    partition_lag_records,
    read_trigger,
)
from control_plane.autoscaling.scaled_object import KafkaTrigger

LAGS = st.lists(st.integers(0, 10_000), min_size=1, max_size=24)


def trigger(threshold: int = 10, **fields: object) -> KafkaTrigger:
    return KafkaTrigger(consumer_group="group", topic="topic", lag_threshold=threshold, **fields)  # type: ignore[arg-type]


def lagging(*lags: int) -> list[PartitionOffsets]:
    return [PartitionOffsets(end=1_000 + lag, committed=1_000) for lag in lags]


@pytest.mark.parametrize(("lag", "expected"), [(10, 1), (20, 2), (40, 4), (50, 5), (99, 10), (100, 10), (101, 20)])
def test_balanced_replicas_are_those_of_kedas_get_next_factor(lag: int, expected: int) -> None:
    """`TestGetNextFactor` of KEDA 2.20.0, pkg/scalers/kafka_scaler_test.go: 100 partitions, threshold 10."""
    assert balanced_replicas(lag, partitions=100, threshold=10) == expected


@pytest.mark.parametrize(
    ("committed", "fields", "expected"),
    [
        (100, {"offset_reset_policy": "earliest"}, 50),
        (None, {"offset_reset_policy": "latest", "scale_to_zero_on_invalid_offset": True}, 0),
        (None, {"offset_reset_policy": "earliest", "scale_to_zero_on_invalid_offset": True}, 0),
    ],
)
def test_the_lag_of_a_partition_is_that_of_kedas_get_lag_for_partition(
    committed: int | None, fields: dict[str, object], expected: int
) -> None:
    """The cases of `TestGetLagForPartition_MissingPartition` whose partition is there: end 150."""
    assert partition_lag_records(PartitionOffsets(end=150, committed=committed), trigger(**fields)) == expected


def test_a_group_that_never_committed_lags_by_the_whole_topic_or_by_one() -> None:
    """The two branches of `getLagForPartition` for the offset -1."""
    never = PartitionOffsets(end=150, committed=None)
    assert partition_lag_records(never, trigger(offset_reset_policy="earliest")) == 150
    assert partition_lag_records(never, trigger(offset_reset_policy="latest")) == 1


@pytest.mark.parametrize(("lag", "asked"), [(24, 5), (25, 5), (26, 6), (29, 6), (30, 5), (1_000, 5)])
def test_between_p_and_p_plus_1_thresholds_one_replica_too_many_is_asked_for(lag: int, asked: int) -> None:
    """KEDA issue #4483: 5 partitions, threshold 5, and a sixth replica for a moment; at 6 thresholds it is cut."""
    lag_per_partition = [lag // 5 + (partition < lag % 5) for partition in range(5)]
    metric = read_trigger(lagging(*lag_per_partition), trigger(5)).metric_records
    assert math.ceil(metric / 5) == asked


def test_one_hot_partition_counts_as_all_of_them() -> None:
    """KEDA issue #2908: 64 partitions, threshold 3,000, 455,040 records on partition 0; the HPA saw 192,000."""
    assert read_trigger(lagging(455_040, *[0] * 63), trigger(3_000)).metric_records == 192_000


def test_limits_to_partitions_with_lag_and_idle_consumers() -> None:
    hot = lagging(455_040, *[0] * 63)
    assert read_trigger(hot, trigger(3_000, limit_to_partitions_with_lag=True)).metric_records == 3_000
    assert read_trigger(hot, trigger(3_000, allow_idle_consumers=True)).metric_records == 455_040


def test_a_pool_is_active_above_the_activation_threshold_whatever_the_cut() -> None:
    assert not read_trigger(lagging(3, 2), trigger(activation_lag_threshold=5)).is_active
    assert read_trigger(lagging(3, 3), trigger(activation_lag_threshold=5)).is_active
    assert not read_trigger(lagging(0, 0), trigger()).is_active


@given(LAGS, st.integers(1, 500))
def test_at_most_one_replica_more_than_partitions_is_asked_for(lags: list[int], threshold: int) -> None:
    metric = read_trigger(lagging(*lags), trigger(threshold)).metric_records
    assert math.ceil(metric / threshold) <= len(lags) + 1


@given(LAGS, st.integers(1, 500), st.integers(0, 500), st.booleans())
def test_more_lag_never_wakes_less(lags: list[int], threshold: int, more: int, even: bool) -> None:
    chosen = trigger(threshold, ensure_even_distribution_of_partitions=even)
    less, greater = (read_trigger(lagging(lags[0] + extra, *lags[1:]), chosen) for extra in (0, more))
    assert less.is_active <= greater.is_active
    assert less.metric_records <= greater.metric_records + threshold

"""A pool's life: from zero, up by its numbers, down, and to zero again."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from control_plane.autoscaling.desired_replicas import Offsets, PartitionOffsets, PoolScaler
from control_plane.autoscaling.scaled_object import Fallback, FallbackBehavior, KafkaTrigger, ScaledObject

PARTITIONS = 12
BEHAVIORS: tuple[FallbackBehavior, ...] = get_args(FallbackBehavior)


def scaled_object(**fields: object) -> ScaledObject:
    triggers = tuple(
        KafkaTrigger(consumer_group="g", topic=lane, lag_threshold=100, offset_reset_policy="earliest")
        for lane in ("requests", "bulk")
    )
    return ScaledObject(
        **{
            "name": "pool",
            "target": "pool",
            "triggers": triggers,
            "max_replicas": PARTITIONS,
            "polling_interval_s": 5,
            "cooldown_s": 60,
            **fields,
        }
    )  # type: ignore[arg-type]


def lag_of(total: int) -> list[PartitionOffsets]:
    return [
        PartitionOffsets(end=1_000 + total // PARTITIONS + (number < total % PARTITIONS), committed=1_000)
        for number in range(PARTITIONS)
    ]


def run(scaler: PoolScaler, requests: Offsets, bulk: Offsets, *, until_s: float) -> list[int]:
    """Every size that was decided until then, in order."""
    sizes = []
    while (now_s := scaler.next_look_s) <= until_s:
        sizes.append(scaler.look([requests, bulk], now_s=now_s).replicas)
    return sizes


def test_an_idle_pool_sleeps_after_its_cooldown_and_not_before() -> None:
    scaler = PoolScaler(scaled_object(), replicas=1, now_s=0.0)
    assert set(run(scaler, lag_of(0), lag_of(0), until_s=60)) == {1}
    assert run(scaler, lag_of(0), lag_of(0), until_s=65)[-1] == 0


def test_one_record_in_either_lane_wakes_a_pool_at_the_next_poll() -> None:
    for lanes in ((lag_of(1), lag_of(0)), (lag_of(0), lag_of(1))):
        assert run(PoolScaler(scaled_object(), replicas=0, now_s=0.0), *lanes, until_s=0) == [1]


def test_a_pool_that_never_committed_wakes() -> None:
    """Guards the offset -1 with `earliest`: a pool that has never run has no offset, and must."""
    never = [PartitionOffsets(end=int(number == 3), committed=None) for number in range(PARTITIONS)]
    assert run(PoolScaler(scaled_object(), replicas=0, now_s=0.0), never, lag_of(0), until_s=0) == [1]


def test_a_burst_grows_by_the_rules_to_what_the_lag_asks_for() -> None:
    """From 1 by at most 4 or 100 % in 15 s: 5, then 10, then the 12 that 1,150 records ask for at 100 each."""
    scaler = PoolScaler(scaled_object(), replicas=0, now_s=0.0)
    sizes = run(scaler, lag_of(1_150), lag_of(0), until_s=45)
    assert [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before] == [5, 10, 12]


@given(st.integers(0, 20), st.integers(0, 12), st.integers(0, 5), st.sampled_from(BEHAVIORS))
def test_while_the_broker_is_away_no_fallback_fires_and_nothing_changes(
    fallback_replicas: int, size: int, threshold: int, behavior: FallbackBehavior
) -> None:
    """Seen with KEDA 2.20: a pool at 3 stays at 3, one at 0 stays at 0 (kedacore/keda#5525, #8056)."""
    fallback = Fallback(failure_threshold=threshold, replicas=fallback_replicas, behavior=behavior)
    for numbers in (scaled_object(fallback=fallback), scaled_object()):
        scaler = PoolScaler(numbers, replicas=size, now_s=0.0)
        assert set(run(scaler, None, None, until_s=600)) == {size}


def test_a_pool_wakes_and_sleeps_again_when_the_broker_is_back() -> None:
    scaler = PoolScaler(scaled_object(fallback=Fallback(failure_threshold=3, replicas=1)), replicas=0, now_s=0.0)
    run(scaler, None, None, until_s=600)
    assert run(scaler, lag_of(1), lag_of(0), until_s=610)[-1] == 1
    assert run(scaler, lag_of(0), lag_of(0), until_s=700)[-1] == 0


def test_a_fallback_holds_the_larger_of_its_replicas_and_the_pool_where_one_topic_cannot_be_read() -> None:
    """KEDA's fallback_test.go: 10 of 10 where the pool has fewer, the pool's own where it has more."""
    fallback = Fallback(failure_threshold=3, replicas=10, behavior="currentReplicasIfHigher")
    small = PoolScaler(scaled_object(fallback=fallback), replicas=2, now_s=0.0)
    assert run(small, None, lag_of(0), until_s=120)[-1] == 10
    large = PoolScaler(scaled_object(fallback=fallback), replicas=11, now_s=0.0)
    assert set(run(large, None, lag_of(0), until_s=120)) == {11}
    assert [Fallback(failure_threshold=0, replicas=10, behavior=each).replicas_for(6) for each in BEHAVIORS] == [
        *(10, 6, 10, 6)
    ]


def test_an_idle_replica_count_is_where_a_pool_sleeps() -> None:
    numbers = scaled_object(min_replicas=3, idle_replicas=1)
    scaler = PoolScaler(numbers, replicas=3, now_s=0.0)
    assert run(scaler, lag_of(0), lag_of(0), until_s=70)[-1] == 1
    assert run(scaler, lag_of(1), lag_of(0), until_s=scaler.next_look_s)[0] == 3


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), min_size=1, max_size=80),
    st.integers(1, PARTITIONS),
    st.integers(0, PARTITIONS),
)
def test_any_load_keeps_a_pool_in_its_bounds_and_a_drained_one_reaches_its_minimum(
    lags: list[tuple[int, int]], most: int, least: int
) -> None:
    least = min(least, most)
    scaler = PoolScaler(scaled_object(min_replicas=least, max_replicas=most), replicas=least, now_s=0.0)
    for requests, bulk in lags:
        size = scaler.look([lag_of(requests), lag_of(bulk)], now_s=scaler.next_look_s).replicas
        assert least <= size <= most
    drained = run(scaler, lag_of(0), lag_of(0), until_s=scaler.next_look_s + 60 + 300 + 15 * PARTITIONS)
    assert drained[-1] == least


@given(st.integers(1, 5_000))
def test_lag_never_leaves_a_pool_asleep(lag: int) -> None:
    scaler = PoolScaler(scaled_object(), replicas=0, now_s=0.0)
    assert min(run(scaler, lag_of(lag), lag_of(0), until_s=300)) >= 1

"""The simulator: nothing is lost or made, waits are those of a queue, and a target wait is kept."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.autoscaling.capacity_plan import (
    Capacity,
    Demand,
    WorkerPace,
    lag_threshold_records,
    make_scaled_object,
    plan_capacity,
    zipf_shares,
)
from control_plane.autoscaling.simulated_load import Load, Pattern, draw_pattern, read_trace
from control_plane.autoscaling.simulation import PoolModel, simulate, summarize
from inferlane.errors import ConfigurationError

PACE = WorkerPace(row_s=0.01, max_batch_rows=32)  # 100 records a second
PARTITIONS = 12


def pool(*, target_wait_s: float = 10.0, least: int = 0, start_s: float = 10.0, rebalance_s: float = 3.0) -> PoolModel:
    thresholds = {
        "m.v.requests": lag_threshold_records(PACE, target_wait_s=target_wait_s),
        "m.v.bulk": lag_threshold_records(PACE, target_wait_s=60),
    }
    numbers = make_scaled_object(name="p", target="p", group="g", thresholds=thresholds, max_replicas=PARTITIONS)
    return PoolModel(
        scaled_object=msgspec.structs.replace(numbers, min_replicas=least),
        pace=PACE,
        partitions=PARTITIONS,
        start_s=start_s,
        rebalance_s=rebalance_s,
    )


def load(*rates: tuple[float, float], each_s: int = 60) -> Load:
    return Load(1.0, np.repeat(np.array(rates, dtype=float), each_s, axis=0))


def test_a_burst_wakes_a_pool_is_worked_off_and_lets_it_sleep_again() -> None:
    run = simulate(pool(), load((0, 0), (600, 0), *[(0, 0)] * 15))
    assert run.desired[0] == 0
    assert run.desired.max() > 6
    assert run.lag_records[-1].sum() == pytest.approx(0, abs=1e-3)
    assert run.desired[-1] == 0
    assert not np.isinf(run.wait_s).any()


def test_the_first_record_of_a_sleeping_pool_waits_for_a_poll_a_start_and_a_rebalance() -> None:
    """5 s between polls, 10 s to start, 3 s to rebalance: no less than 13 s, no more than 18 s and a step."""
    run = simulate(pool(), load((0, 0), (1, 0)))
    assert 13 <= run.wait_s[60, 0] <= 19


def test_lag_that_a_pool_is_left_alone_with_is_worked_off_within_the_target_wait() -> None:
    """The promise of `threshold`: 4 workers of 12 partitions, as much lag as the tolerance lets them keep."""
    model = pool(target_wait_s=10, least=4)
    most = 4 * 1.1 * model.scaled_object.triggers[0].lag_threshold
    run = simulate(model, load((most, 0), *[(0, 0)] * 30, each_s=1))
    assert set(run.desired) == {4}
    assert run.wait_s[0, 0] + PACE.batch_s <= 10


def test_clients_do_not_wait_for_bulk() -> None:
    """Bulk that no pool keeps up with takes its share, and clients who need less than the rest wait for none of it."""
    run = simulate(pool(least=1), load(*[(100, 5_000)] * 10))
    assert run.wait_s[300:, 0].max() <= 1
    assert run.lag_records[-1, 1] > 0


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0, 3_000), st.floats(0, 3_000)), min_size=1, max_size=6),
    st.integers(0, PARTITIONS),
    st.floats(0, 30),
)
def test_what_came_was_taken_or_waits(rates: list[tuple[float, float]], least: int, start_s: float) -> None:
    run = simulate(pool(least=least, start_s=start_s), load(*rates))
    assert (run.lag_records > -1e-3).all()
    assert (run.desired >= least).all()
    assert (run.desired <= PARTITIONS).all()
    assert (run.ready <= run.desired).all()
    # No step takes more than its workers can.
    taken = np.diff(run.arrived.cumsum(axis=0) - run.lag_records, axis=0).sum(axis=1)
    assert (taken <= run.ready[1:] * PACE.records_per_s + 1e-3).all()


def test_pools_that_are_alike_count_as_many() -> None:
    run = simulate(pool(least=1), load((50, 0)))
    one, many = summarize([(run, 1)]), summarize([(run, 50)])
    assert many.records == pytest.approx(50 * one.records)
    assert many.peak_workers == 50 * one.peak_workers
    assert many.waits == one.waits


def test_a_trace_holds_its_rates_until_the_next_row() -> None:
    lines = ["time_s,requests_per_s,bulk_per_s", "100,5,1", "102,7,", "103,0,2"]
    read = read_trace(lines, step_s=1.0, source="trace.csv")
    assert read.rates.tolist() == [[5, 1], [5, 1], [7, 0], [0, 2]]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["time,requests_per_s", "0,1", "1,1"], "time_s"),
        (["time_s,requests_per_s", "0,1", "0,1"], "line 3"),
        (["time_s,requests_per_s", "0,1", "1,-1"], "line 3"),
        (["time_s,requests_per_s", "0,1", "1,many"], "line 3"),
        (["time_s,requests_per_s", "0,1"], "1 rows"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(lines: list[str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        read_trace(lines, step_s=1.0, source="trace.csv")


@pytest.mark.parametrize("pattern", Pattern)
def test_a_pattern_reaches_its_peak_and_no_more(pattern: Pattern) -> None:
    drawn = draw_pattern(pattern, rate_per_s=100, bulk_per_s=10, duration_s=600, step_s=1)
    assert drawn.duration_s == 600
    assert drawn.rates.sum(axis=1).max() == pytest.approx(110, rel=1e-3)
    assert drawn.rates.min() >= 0


def test_the_plan_of_ten_thousand_requests_a_second_over_fifty_versions() -> None:
    """By hand: 200/s a version at 70 % of 100/s a worker are 3; 2 · 12 partitions a version, 3 · 12 + 6 shared."""
    demand = Demand(
        rate_per_s=10_000,
        shares=zipf_shares(50, 0),
        record_bytes=1_000,
        work_partitions=12,
        ingress_partitions=12,
        replication_factor=3,
    )
    planned = plan_capacity(demand, PACE, Capacity(api_per_s=2_000, router_per_s=10_000, broker_partitions=4_000))
    assert (planned.workers, planned.busiest_workers, planned.short_versions) == (150, 3, 0)
    assert (planned.topics, planned.partitions, planned.consumer_groups) == (109, 1_242, 53)
    assert (planned.api_replicas, planned.router_replicas, planned.brokers) == (8, 2, 3)
    assert planned.produced_mb_per_s == 20


def test_a_version_that_outgrows_its_partitions_is_counted() -> None:
    shares = zipf_shares(50, 1)
    assert sum(shares) == pytest.approx(1)
    demand = Demand(
        rate_per_s=10_000,
        shares=shares,
        record_bytes=1,
        work_partitions=12,
        ingress_partitions=12,
        replication_factor=1,
    )
    planned = plan_capacity(demand, PACE, Capacity(api_per_s=1, router_per_s=1, broker_partitions=1))
    # 10,000 / 4.499 = 2,222/s for the first; versions above 840/s are short: ranks 1 and 2.
    assert (planned.busiest_workers, planned.short_versions) == (32, 2)

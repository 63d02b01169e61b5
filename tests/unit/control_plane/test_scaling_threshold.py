"""lagThreshold: the worked example of docs/scaling.md, and the wait that it promises."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.autoscaling.capacity_plan import WorkerPace, lag_threshold_records
from inferlane.errors import ConfigurationError

EXAMPLE = WorkerPace(row_s=0.002, max_batch_rows=64, batch_overhead_s=0.01)


def test_the_worked_example_of_the_docs() -> None:
    """10 ms + 64 rows of 2 ms = 0.138 s a batch, 463.8 records a second, 2 batches and 0.2 s of them in hand."""
    assert EXAMPLE.batch_s == pytest.approx(0.138)
    assert EXAMPLE.records_per_s == pytest.approx(463.768, abs=0.001)
    assert EXAMPLE.records_in_hand == 221
    assert lag_threshold_records(EXAMPLE, target_wait_s=2.0) == 785


def test_a_wait_shorter_than_what_a_worker_has_in_hand_is_refused_with_the_shortest() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.66") as refused:
        lag_threshold_records(EXAMPLE, target_wait_s=0.5)
    assert "221" in str(refused.value)
    assert lag_threshold_records(EXAMPLE, target_wait_s=EXAMPLE.shortest_wait_s) > EXAMPLE.records_in_hand - 1


PACES = st.builds(
    WorkerPace,
    row_s=st.floats(1e-5, 1.0),
    max_batch_rows=st.integers(1, 512),
    batch_overhead_s=st.floats(0, 0.5),
    rows_per_record=st.floats(0.5, 100),
)


@given(PACES, st.floats(1, 20), st.integers(1, 1_000_000))
def test_a_pool_of_the_size_that_is_asked_for_works_the_lag_off_within_the_wait(
    pace: WorkerPace, patience: float, lag: int
) -> None:
    """Also in a pool that the HPA leaves one short because it is within the tolerance."""
    wait_s = pace.shortest_wait_s * patience
    threshold = lag_threshold_records(pace, target_wait_s=wait_s)
    smallest_left_alone = max(1, math.ceil(lag / threshold / 1.1 - 1e-9))
    assert lag / (smallest_left_alone * pace.records_per_s) + pace.batch_s <= wait_s * (1 + 1e-6)


@pytest.mark.parametrize(
    "fields", [{"row_s": 0.0}, {"batch_overhead_s": -1.0}, {"max_batch_rows": 0}, {"rows_per_record": 0.0}]
)
def test_a_pace_that_nothing_has_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        WorkerPace(**{"row_s": 0.001, "max_batch_rows": 8, **fields})  # type: ignore[arg-type]

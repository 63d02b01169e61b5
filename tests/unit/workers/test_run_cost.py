"""Whether a run is short enough for the event loop."""

import math

from workers.run_cost import RunCost


def test_nothing_is_known_before_the_first_run() -> None:
    assert RunCost().of(1) == math.inf


def test_more_rows_cost_more() -> None:
    cost = RunCost()
    cost.note(10, 0.0001)
    assert cost.of(20) == 0.0002


def test_few_rows_are_not_thought_cheap_after_many() -> None:
    """Guards `max(1.0, …)`: a model that reads its weights for each run costs as much for a single row."""
    cost = RunCost()
    cost.note(256, 0.018)
    assert cost.of(1) == 0.018


def test_nothing_costs_nothing() -> None:
    assert RunCost().of(0) == 0.0


def test_a_small_run_does_not_make_large_ones_seem_costly() -> None:
    """Batches of all sizes take turns under load; one row takes nearly as long as 64 of a small model."""
    cost = RunCost()
    cost.note(64, 0.00002)
    cost.note(1, 0.00001)
    assert cost.of(64) == 0.00002
    assert cost.of(32) == 0.00002
    assert cost.of(1) == 0.00001


def test_one_slow_run_is_not_believed_and_three_are() -> None:
    cost = RunCost()
    for spent_s in (0.00001, 0.005, 0.005):
        cost.note(8, spent_s)
        assert cost.of(8) == 0.00001
    cost.note(8, 0.005)
    assert cost.of(8) == 0.005


def test_runs_of_one_size_differ_by_their_rows() -> None:
    cost = RunCost()
    cost.note(8, 0.5)
    assert cost.of(12) == 0.75

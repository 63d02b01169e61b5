"""Whether a run is short enough for the event loop."""

import math

from workers.model import RunCost


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

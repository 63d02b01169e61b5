"""Whether a run is short enough for the event loop."""

import math

from workers.row_cost import RowCost


def test_nothing_is_known_before_the_first_run() -> None:
    assert RowCost().of(1) == math.inf


def test_a_run_is_judged_by_the_one_before() -> None:
    cost = RowCost()
    cost.note(100, 0.001)
    assert cost.of(10) < 0.0003 < cost.of(100)


def test_a_run_without_rows_says_nothing() -> None:
    cost = RowCost()
    cost.note(0, 0.0)
    assert cost.of(1) == math.inf

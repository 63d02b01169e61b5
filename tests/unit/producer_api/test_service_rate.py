"""How long a new record will wait: only what a busy group did says what it can do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.kafka.offsets import Position
from producer_api.predict.service_rate import ServiceRate


def noted(*positions: tuple[float, int, int]) -> ServiceRate:
    """Of `(at_s, committed, end)`."""
    rate = ServiceRate()
    for at_s, committed, end in positions:
        rate.note(Position(committed=committed, end=end), at_s=at_s)
    return rate


def test_a_busy_group_shows_its_rate_and_the_wait_follows() -> None:
    rate = noted((0, 0, 1_000), (1, 100, 1_000))
    assert rate.records_a_second == pytest.approx(100)
    assert rate.expected_wait_s(now_s=1) == pytest.approx(9)
    assert rate.expected_wait_s(now_s=1, newer_records=100) == pytest.approx(10)


def test_a_group_with_little_to_do_does_not_look_slow() -> None:
    """Guards `was_busy`: taken out, five requests a second would be taken for all that the pool can do."""
    rate = noted(*((float(second), 5 * second, 5 * second + 2) for second in range(20)))
    assert rate.records_a_second is None
    assert rate.expected_wait_s(now_s=19, newer_records=10_000) == 0


def test_an_idle_spell_lowers_no_rate() -> None:
    rate = noted((0, 0, 1_000), (1, 100, 1_000), (10, 1_000, 1_000), (100, 1_010, 1_010))
    assert rate.records_a_second is not None
    assert rate.records_a_second >= 90


def test_a_pool_that_grew_is_believed_soon() -> None:
    rate = noted((0, 0, 100_000), (1, 100, 100_000))
    for second in range(2, 32):
        rate.note(Position(committed=100 + 200 * (second - 1), end=100_000), at_s=second)
    assert rate.records_a_second == pytest.approx(200, rel=0.05)


def test_a_group_that_stands_still_is_expected_to_stand_still_as_long_again() -> None:
    """Guards `still_s`: taken out, a dead pool promises the wait of a living one for ever."""
    rate = noted((0, 0, 1_000), (1, 100, 1_000), (2, 100, 1_000), (31, 100, 1_000))
    assert rate.expected_wait_s(now_s=31) == pytest.approx(30 + 9)


def test_a_group_without_work_does_not_stand_still() -> None:
    rate = noted((0, 10, 10), (100, 10, 10))
    assert rate.expected_wait_s(now_s=1_000) == 0


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 500), st.integers(0, 500)), max_size=30))
def test_waits_are_never_negative_and_grow_with_what_waits(steps: list[tuple[float, int, int]]) -> None:
    rate = ServiceRate()
    now_s, committed, end = 0.0, 0, 0
    for step_s, came, could in steps:
        now_s += step_s
        end += came
        committed = min(end, committed + could)
        rate.note(Position(committed=committed, end=end), at_s=now_s)
    wait_s = rate.expected_wait_s(now_s=now_s)
    assert wait_s >= 0
    assert rate.expected_wait_s(now_s=now_s, newer_records=10) >= wait_s

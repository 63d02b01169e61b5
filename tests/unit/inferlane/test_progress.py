"""Liveness is progress: a consumer is stuck when records wait on a partition and nothing is done there."""

from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.kafka.lag import ConsumerState, Progress

LIMIT_S = 60.0


def make_progress() -> Progress:
    return Progress(stuck_after_s=LIMIT_S)


def test_a_consumer_is_stuck_when_records_wait_and_none_is_done() -> None:
    """Guards `_state`: taken out, a worker that stands still is never replaced."""
    progress = make_progress()
    progress.note_done(0, 10)
    progress.note_ends({0: 12}, now_s=0)
    assert progress.health(now_s=59).state is ConsumerState.MOVING
    progress.note_ends({0: 15}, now_s=50)
    health = progress.health(now_s=61)
    assert (health.state, health.lag_records, health.still_s) == (ConsumerState.STUCK, 5, 61)


def test_one_record_done_makes_it_move_again() -> None:
    progress = make_progress()
    progress.note_done(0, 10)
    progress.note_ends({0: 12}, now_s=0)
    progress.note_done(0, 11)
    progress.note_ends({0: 12}, now_s=61)
    assert progress.health(now_s=62).state is ConsumerState.MOVING


def test_a_partition_that_moves_does_not_hide_one_that_stands_still() -> None:
    """Guards the ledger by partition: one clock for all of them would be wound by any."""
    progress = make_progress()
    for partition in (0, 1):
        progress.note_done(partition, 0)
    for now_s in range(0, 70, 10):
        progress.note_done(0, now_s + 1)
        progress.note_ends({0: now_s + 2, 1: 5}, now_s=now_s)
    assert progress.health(now_s=70).state is ConsumerState.STUCK


def test_an_idle_consumer_is_not_stuck() -> None:
    progress = make_progress()
    progress.note_ends({0: 12}, now_s=0)
    progress.note_ends({0: 12}, now_s=100)
    assert progress.health(now_s=1_000).state is ConsumerState.IDLE


def test_standing_still_while_a_dependency_is_away_is_blocked_and_not_stuck() -> None:
    """Guards `note_blocked`: taken out, a store that is down for a while gets every worker killed on top."""
    progress = make_progress()
    progress.note_done(0, 0)
    progress.note_ends({0: 5}, now_s=0)
    progress.note_blocked()
    assert progress.health(now_s=100).state is ConsumerState.BLOCKED
    progress.note_ends({0: 5}, now_s=100)
    assert progress.health(now_s=159).state is ConsumerState.MOVING
    assert progress.health(now_s=161).state is ConsumerState.STUCK


def test_a_rebalance_starts_over() -> None:
    progress = make_progress()
    progress.note_done(0, 0)
    progress.note_ends({0: 5}, now_s=0)
    progress.start_over()
    assert not progress.knows(0)
    assert progress.health(now_s=100).state is ConsumerState.IDLE


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 50))))
def test_lag_is_never_negative_and_zero_lag_is_never_stuck(notes: list[tuple[int, int, int]]) -> None:
    progress = make_progress()
    for now_s, (partition, done, end) in enumerate(notes):
        progress.note_done(partition, done)
        progress.note_ends({partition: end}, now_s=now_s * 40.0)
    health = progress.health(now_s=len(notes) * 40.0)
    assert health.lag_records >= 0
    assert health.lag_records > 0 or health.state is ConsumerState.IDLE

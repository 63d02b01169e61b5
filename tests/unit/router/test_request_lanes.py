"""The size of the router's batches."""

from router.request_lanes import batch_size


def sizes(waiting: int, arriving: int, *, batches: int) -> list[int]:
    """The sizes of successive batches where so many records wait, and so many come while each is in work."""
    left, found = 0, []
    for _ in range(batches):
        batch = min(batch_size(left, is_hurried=False, at_most=2_000), waiting)
        left = waiting - batch
        waiting = left + arriving
        found.append(batch)
    return found


def test_what_came_since_the_last_fetch_is_for_the_batch_after_the_next() -> None:
    assert sizes(200, 50, batches=4) == [32, 168, 50, 50]


def test_requests_that_came_together_are_not_one_batch() -> None:
    assert sizes(64, 0, batches=2) == [32, 32]


def test_a_long_backlog_is_taken_in_large_batches() -> None:
    assert sizes(10_000, 0, batches=4) == [32, 2_000, 2_000, 2_000]


def test_a_quiet_lane_and_one_that_found_a_death_take_few_records() -> None:
    assert batch_size(0, is_hurried=False, at_most=2_000) == 32
    assert batch_size(1_000, is_hurried=True, at_most=2_000) == 32

"""Commits never pass a record whose work is not done."""

from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.kafka.offsets import OffsetTracker


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_nothing_is_committed_past_an_unfinished_take(sizes: list[int], random) -> None:  # noqa: ANN001
    tracker: OffsetTracker[str] = OffsetTracker()
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    tickets = [tracker.begin({"p": end}) for end in ends]
    finished: set[int] = set()
    committed = 0
    for index in random.sample(range(len(sizes)), len(sizes)):
        tracker.finish(tickets[index])
        finished.add(index)
        committed = tracker.take_committable().get("p", committed)
        first_open = next((i for i in range(len(sizes)) if i not in finished), None)
        assert committed == (ends[-1] if first_open is None else ends[first_open] - sizes[first_open])
    assert tracker.is_idle


def test_what_was_returned_is_not_returned_again() -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.finish(tracker.begin({"p": 5}))
    assert tracker.take_committable() == {"p": 5}
    assert tracker.take_committable() == {}


def test_a_ticket_from_before_a_revocation_commits_nothing() -> None:
    tracker: OffsetTracker[str] = OffsetTracker()
    old = tracker.begin({"p": 5})
    tracker.forget()
    new = tracker.begin({"p": 2})
    tracker.finish(old)
    assert tracker.take_committable() == {}
    tracker.finish(new)
    assert tracker.take_committable() == {"p": 2}

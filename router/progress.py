"""Whether the outcome consumer moves: Faust's consumers are known to stop without an error."""

from collections.abc import Mapping

# Shorter kills a router in the middle of a rebalance, longer leaves the windows old for as long.
_STUCK_S = 60.0


class Progress:
    """Compares what was taken with what the topic holds. Pure; `now_s` is monotonic."""

    def __init__(self) -> None:
        self._next_offsets: dict[int, int] = {}
        self._behind_since_s: float | None = None

    def start_over(self) -> None:
        """Forget everything: after a rebalance it is not known here where the group stands."""
        self._next_offsets.clear()
        self._behind_since_s = None

    def note_taken(self, partition: int, offset: int) -> None:
        """Note that a record was taken."""
        self._next_offsets[partition] = offset + 1
        self._behind_since_s = None

    def note_ends(self, ends: Mapping[int, int], *, now_s: float) -> None:
        """Compare with the end of each partition; one that nothing was taken of counts from its first known end."""
        behind = [partition for partition, end in ends.items() if self._next_offsets.setdefault(partition, end) < end]
        if not behind:
            self._behind_since_s = None
        elif self._behind_since_s is None:
            self._behind_since_s = now_s

    def is_stuck(self, *, now_s: float) -> bool:
        """Whether records have waited for long and none was taken."""
        return self._behind_since_s is not None and now_s - self._behind_since_s > _STUCK_S

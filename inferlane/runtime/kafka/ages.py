"""For how long the oldest waiting record has waited, without reading a record. Pure."""

from collections import deque
from collections.abc import Sequence

from inferlane.runtime.kafka.positions import PartitionPosition

# Ends that are remembered for one partition. With a look every 5 s an hour and a half of standing still is told
# exactly; of a longer one the age keeps growing from the oldest look that is left.
_LOOKS = 1_024


class OldestAge:
    """Ages of a topic's backlog, from looks at the ends and the committed offsets of its partitions.

    A record is at least as old as the first look at an end past it. So an age is too low by at most the time between
    two looks, and counts from the first look after a start.
    """

    def __init__(self) -> None:
        self._ends: dict[int, deque[tuple[float, int]]] = {}

    def note(self, partitions: Sequence[PartitionPosition], *, at_s: float) -> float:
        """Note a look (every partition by number, `at_s` monotonic); return the age in seconds, 0 if nothing waits."""
        return max((self._note(number, part.done, part.end, at_s) for number, part in enumerate(partitions)), default=0)

    def _note(self, number: int, committed: int, end: int, at_s: float) -> float:
        seen = self._ends.setdefault(number, deque())
        if seen and end < seen[-1][1]:
            # A broker that forgot, or a topic made anew: what was seen says nothing of it.
            seen.clear()
        if not seen or end > seen[-1][1]:
            seen.append((at_s, end))
        while seen and seen[0][1] <= committed:
            seen.popleft()
        if len(seen) > _LOOKS:
            # The oldest look stays: it is the age.
            del seen[1]
        return at_s - seen[0][0] if seen else 0.0

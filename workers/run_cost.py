"""How much CPU time a run of so many rows takes, by the runs before. Pure."""

import math
from collections import deque

_FEWEST_ROWS = 16
_ALL_ROWS = 1 << 30

# Of so many runs of one size the fastest counts: one that found its caches cold says nothing of the next. With more, a
# model whose rows suddenly cost more would hold up the event loop more often.
_RUNS_KEPT = 3


class RunCost:
    """Estimates the CPU time of a run from the runs before, by their rows up to the same power of two.

    A size that was not seen costs what the next larger one does: scaling down would forget the fixed cost of a run.
    More rows than in any run before cost more in proportion.
    """

    def __init__(self) -> None:
        self._runs: dict[int, deque[tuple[int, float]]] = {}
        self._last_rows, self._last_s = 1, math.inf

    def of(self, rows: int) -> float:
        """Return the CPU-seconds for so many rows; infinite before the first run."""
        if not rows:
            return 0.0
        if not self._runs:
            return math.inf
        size = rows.bit_length()
        nearest = min((seen for seen in self._runs if seen >= size), default=None)
        runs = self._runs[max(self._runs) if nearest is None else nearest]
        return min(spent_s * max(1.0, rows / noted) for noted, spent_s in runs)

    def rows_within(self, limit_s: float) -> int:
        """Return how many rows a run of that time has, by the run before, and a few at least.

        A fixed cost must not make it one row a run.
        """
        return max(_FEWEST_ROWS, int(self._last_rows * limit_s / self._last_s)) if self._last_s else _ALL_ROWS

    def note(self, rows: int, spent_s: float) -> None:
        """Note a run of at least one row."""
        self._last_rows, self._last_s = rows, spent_s
        self._runs.setdefault(rows.bit_length(), deque(maxlen=_RUNS_KEPT)).append((rows, spent_s))

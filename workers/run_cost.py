"""How long a run will take at most, from the last one. Pure."""

import math


class RunCost:
    """The CPU-seconds and rows of the run before.

    Fewer rows are taken to cost as much as those of that run: what a run costs whatever its rows would else be
    forgotten after a large one. More cost more in proportion.
    """

    def __init__(self) -> None:
        self._rows = 1
        self._spent_s = math.inf

    def of(self, rows: int) -> float:
        """Seconds that so many rows take; without end before the first run."""
        return self._spent_s * max(1.0, rows / self._rows) if rows else 0.0

    def note(self, rows: int, spent_s: float) -> None:
        """Note a run of one row or more."""
        self._rows, self._spent_s = rows, spent_s

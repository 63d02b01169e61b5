"""How long a run will take, from the last one. Pure."""

import math


class RowCost:
    """CPU-seconds of a row in the run before; few rows make the next seem dearer than it is, never cheaper."""

    def __init__(self) -> None:
        self._row_s = math.inf

    def of(self, rows: int) -> float:
        """Seconds that so many rows would take; without end before the first run."""
        return rows * self._row_s if rows else 0.0

    def note(self, rows: int, spent_s: float) -> None:
        """Note a run."""
        self._row_s = spent_s / rows if rows else math.inf

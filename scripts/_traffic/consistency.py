"""Checks that answers do not contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .documents import Prediction, Row

# Violations that are told in words; all are counted.
TOLD_VIOLATIONS = 5


class Consistency:
    """Holds the first answer for each (body, version) and the first version of each routing key against later ones.

    Labels must be equal. Probabilities may differ by `tolerance`: a sum of float32 numbers depends on the order of
    its terms, and that may depend on how many rows share a batch. Memory is bounded by bodies times versions, and
    by routing keys.
    """

    def __init__(self, *, rows: int, version: str | None, tolerance: float) -> None:
        self._rows = rows
        self._version = version
        self._tolerance = tolerance
        self._answers: dict[tuple[int, str], list[Row]] = {}
        self._versions: dict[str, str] = {}
        self.checked = 0
        self.largest_difference = 0.0
        self.violations = 0
        self.told: list[str] = []

    def observe(self, prediction: Prediction, *, body_number: int, routing_key: str | None) -> None:
        """Hold one answer with status 200 against those before it."""
        self.checked += 1
        self._observe_rows(prediction, body_number)
        if self._version is not None and prediction.version != self._version:
            self._violate(f"{prediction.request_id}: version {self._version} was asked, {prediction.version} answered")
        if routing_key is not None:
            first = self._versions.setdefault(routing_key, prediction.version)
            if first != prediction.version:
                self._violate(f"routing key {routing_key}: answered by {first}, then by {prediction.version}")

    def _observe_rows(self, prediction: Prediction, body_number: int) -> None:
        rows = prediction.predictions
        if len(rows) != self._rows:
            self._violate(f"{prediction.request_id}: {self._rows} rows were sent, {len(rows)} predictions came back")
            return
        first = self._answers.setdefault((body_number, prediction.version), rows)
        for number, (expected, row) in enumerate(zip(first, rows, strict=True)):
            difference = _difference(expected, row)
            if difference is not None:
                self.largest_difference = max(self.largest_difference, difference)
            if difference is None or difference > self._tolerance:
                what = f"body {body_number}, row {number}, version {prediction.version}"
                self._violate(f"{what}: first {expected}, then {row}")

    def _violate(self, what: str) -> None:
        self.violations += 1
        if len(self.told) < TOLD_VIOLATIONS:
            self.told.append(what)


def _difference(one: Row, other: Row) -> float | None:
    """Return the largest difference of a probability, or None where the labels or the lengths differ."""
    if one.label != other.label or len(one.probabilities) != len(other.probabilities):
        return None
    pairs = zip(one.probabilities, other.probabilities, strict=True)
    return max((abs(left - right) for left, right in pairs), default=0.0)

"""What the predict call counts: each label set is bound once, and none holds a name that the catalog does not know."""

from typing import TYPE_CHECKING

from inferlane.contracts.results import CANCELLED, EXPIRED
from inferlane.runtime.metrics.api import ANSWERS, IDEMPOTENT, LATENCY
from inferlane.runtime.metrics.labels import NONE, KnownPools, bounded, error_reasons

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

    from models.catalog import Catalog


class AnswerCounts:
    """Counts answers and calls with a key. One event loop."""

    def __init__(self, catalog: "Catalog") -> None:
        self._pools = KnownPools((version.model, version.version) for version in catalog.all_versions())
        self._reasons = error_reasons(beside=(CANCELLED, EXPIRED))
        self._answers: dict[tuple[str | None, str | None, int, str | None], tuple[Counter, Histogram]] = {}
        self._first, self._replayed = IDEMPOTENT.labels("first"), IDEMPOTENT.labels("replayed")
        for model, version in self._pools:
            self._bind(model, version, 200, None)

    def idempotent(self, *, is_replay: bool) -> None:
        """Count a call with a key."""
        (self._replayed if is_replay else self._first).inc()

    def answered(
        self, model: str | None, version: str | None, *, status: int, reason: str | None, took_s: float
    ) -> None:
        """Count an answer; model and version are None where none was reached, `reason` is an error code or None."""
        # What was seen before is found by one look-up; what was not is bounded first, and few are let in.
        held = self._answers.get((model, version, status, reason)) or self._bind(model, version, status, reason)
        held[0].inc()
        held[1].observe(took_s)

    def _bind(
        self, model: str | None, version: str | None, status: int, reason: str | None
    ) -> "tuple[Counter, Histogram]":
        labels = self._pools.labels(model, version)
        known = bounded(reason, self._reasons)
        children = ANSWERS.labels(*labels, status, known), LATENCY.labels(*labels)
        if labels == (model or NONE, version or NONE) and known == (reason or NONE):
            self._answers[model, version, status, reason] = children
        return children

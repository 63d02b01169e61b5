"""The Prometheus children of one lane of a worker, bound once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inferlane.contracts.outcomes import OTHER
from inferlane.contracts.results import CANCELLED, EXPIRED, Result, Status
from inferlane.errors import (
    DecodeError,
    FatalRecordError,
    InferlaneError,
    InvalidInputError,
    ModelError,
    PayloadTooLargeError,
)
from inferlane.runtime.metrics import worker as metrics
from inferlane.runtime.metrics.labels import NONE, bounded

if TYPE_CHECKING:
    from inferlane.contracts.naming import Lane
    from workers.answers import RunTimes

_ERRORS = (DecodeError, FatalRecordError, InferlaneError, InvalidInputError, ModelError, PayloadTooLargeError)
# What a worker can end a request with.
_REASONS: dict[Status, tuple[str, ...]] = {
    Status.SUCCEEDED: (NONE,),
    Status.EXPIRED: (EXPIRED,),
    Status.FAILED: (
        *(error.code for error in _ERRORS),
        CANCELLED,
        OTHER,
    ),
}


class LaneMetrics:
    """Every series is there from the start, so that a rate sees the first failure too."""

    def __init__(self, model: str, version: str, lane: "Lane") -> None:
        labels = (model, version, lane)
        self.topic_wait = metrics.TOPIC_WAIT.labels(*labels)
        self.queue_wait = metrics.QUEUE_WAIT.labels(*labels)
        self.total = metrics.TOTAL.labels(*labels)
        self._batch_wait = metrics.BATCH_WAIT.labels(*labels)
        self._inference = metrics.INFERENCE.labels(*labels)
        self._store = metrics.STORE.labels(*labels)
        self._rows = metrics.BATCH_ROWS.labels(*labels)
        self._busy = metrics.BUSY.labels(*labels)
        self._requests = {
            (status, reason): metrics.REQUESTS.labels(*labels, status, reason)
            for status, reasons in _REASONS.items()
            for reason in reasons
        }

    def count(self, results: Sequence[Result]) -> None:
        """Count terminal results."""
        tally: dict[tuple[Status, str | None], int] = {}
        for result in results:
            key = (result.status, result.error_code)
            tally[key] = tally.get(key, 0) + 1
        for (status, code), count in tally.items():
            self._requests[status, bounded(code, _REASONS[status])].inc(count)

    def note_run(self, *, taken_s: float, run: "RunTimes", stored_s: float, rows: int) -> None:
        """Count one run of `rows` rows that succeeded, and the time before and after it."""
        self._batch_wait.observe(max(0.0, run.started_s - taken_s))
        self._inference.observe(run.inference_s)
        self._busy.inc(run.inference_s)
        self._store.observe(max(0.0, stored_s - run.ended_s))
        if rows:
            self._rows.observe(rows)

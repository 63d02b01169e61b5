"""Halt a worker whose model fails on most requests, instead of dead-lettering its whole topic."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.results import Result, Status
from inferlane.errors import ModelError
from inferlane.runtime.metrics.worker_metrics import HALTED

if TYPE_CHECKING:
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import WorkerSettings

log = structlog.get_logger(__name__)

# Records that a halted worker fetches to see whether the model works again.
_PROBE_RECORDS = 8
_LONGEST_PAUSE_S = 600.0
_TOO_MANY = "the model fails on too many requests"


class FailureLimit:
    """Watches the share of recent inferred requests on which the model failed. Used from one event loop.

    Requests that are unreadable, invalid, expired or cancelled say nothing about the model and do not count. So a bad
    producer can neither halt the pool, nor hide that the model is broken, nor make a broken model seem repaired.

    Above the limit the worker fetches nothing for `failure_pause_s`; then it tries a few records. If they fail too, the
    pause doubles, up to ten minutes. Waiting records stay in the topic.
    """

    def __init__(self, worker: "WorkerSettings", *, model: str, version: str, clock: "Clock") -> None:
        self._share = worker.failure_share_limit
        self._window_requests = worker.failure_window_requests
        self._first_pause_s = worker.failure_pause_s
        self._labels = (model, version)
        self._clock = clock
        self._counts: deque[tuple[int, int]] = deque()
        # The sums of `_counts`.
        self._judged = self._failed = 0
        self._pause_s = self._first_pause_s
        self._halted_until_s: float | None = None
        HALTED.labels(*self._labels).set(0)

    @property
    def is_halted(self) -> bool:
        """Whether the worker is halted; true until a probe succeeds."""
        return self._halted_until_s is not None

    def allowance(self, max_records: int) -> int:
        """Return how many of `max_records` may be fetched now; 0 during a pause."""
        if self._halted_until_s is None:
            return max_records
        return min(max_records, _PROBE_RECORDS) if self._clock.monotonic_s() >= self._halted_until_s else 0

    def halt(self, reason: str) -> None:
        """Halt at once, whatever the share is."""
        if self._halted_until_s is None:
            self._halt(0, reason)

    def note(self, results: Sequence[Result]) -> None:
        """Count terminal results as they are delivered."""
        failed = [result.error_code for result in results].count(ModelError.code)
        judged = failed + [result.status for result in results].count(Status.SUCCEEDED)
        if judged == 0:
            return
        if self.is_halted:
            self._judge_probe(judged, failed)
            return
        self._counts.append((judged, failed))
        self._judged += judged
        self._failed += failed
        while self._judged - self._counts[0][0] >= self._window_requests:
            oldest_judged, oldest_failed = self._counts.popleft()
            self._judged -= oldest_judged
            self._failed -= oldest_failed
        if self._judged >= self._window_requests and self._is_over(self._judged, self._failed):
            self._halt(self._judged, _TOO_MANY)

    def _is_over(self, total: int, failed: int) -> bool:
        return failed > self._share * total

    def _judge_probe(self, total: int, failed: int) -> None:
        # Results of batches from before the halt come in during the pause; they are not the probe.
        if self.allowance(1) == 0:
            return
        if self._is_over(total, failed):
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            self._halt(total, _TOO_MANY)
            return
        self._halted_until_s, self._pause_s = None, self._first_pause_s
        HALTED.labels(*self._labels).set(0)
        log.info("pool_resumed", model=self._labels[0], version=self._labels[1])

    def _halt(self, requests: int, reason: str) -> None:
        self._counts.clear()
        self._judged = self._failed = 0
        self._halted_until_s = self._clock.monotonic_s() + self._pause_s
        HALTED.labels(*self._labels).set(1)
        log.error(
            "pool_halted",
            reason=reason,
            model=self._labels[0],
            version=self._labels[1],
            requests=requests,
            share_limit=self._share,
            pause_s=self._pause_s,
            remedy="read the dead letters, then repair or roll back the version; waiting records stay in the topic",
        )

"""A pool that fails everything stops, instead of emptying its topic into the dead letters. Pure."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.results import Result, Status
from inferlane.errors import ModelError
from inferlane.runtime.metrics.worker_metrics import HALTED

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from inferlane.runtime.retry import Clock

log = structlog.get_logger(__name__)

# What a worker that halted takes to see whether the model works again.
_PROBE_RECORDS = 8
_LONGEST_PAUSE_S = 600.0


class FailureLimit:
    """Watches the share of the last requests that the model failed on, of those that it was run on. One event loop.

    A request that cannot be read or does not fit is its sender's fault, and one that expired or was cancelled says
    nothing of the model: none of them counts on either side. One bad producer must not stop the pool for everybody, nor
    hide that the model is broken, nor pass for a model that works again.

    Past the limit nothing is taken for `failure_pause_s`; then a few records are tried, and if those fail too the pause
    doubles, up to ten minutes. What waits in the topic stays there.
    """

    def __init__(self, settings: "Settings", *, model: str, version: str, clock: "Clock") -> None:
        self._share = settings.failure_share_limit
        self._window_requests = settings.failure_window_requests
        self._first_pause_s = settings.failure_pause_s
        self._labels = (model, version)
        self._clock = clock
        self._counts: deque[tuple[int, int]] = deque()
        self._pause_s = self._first_pause_s
        self._halted_until_s: float | None = None
        HALTED.labels(*self._labels).set(0)

    @property
    def is_halted(self) -> bool:
        """Whether the model is held to be broken; true until a probe succeeds."""
        return self._halted_until_s is not None

    def allowance(self, max_records: int) -> int:
        """How many records may be taken now, of `max_records`; 0 during a pause."""
        if self._halted_until_s is None:
            return max_records
        return min(max_records, _PROBE_RECORDS) if self._clock.monotonic_s() >= self._halted_until_s else 0

    def note(self, results: Sequence[Result]) -> None:
        """Count terminal results as they are delivered."""
        failed = sum(result.error_code == ModelError.code for result in results)
        judged = failed + sum(result.status is Status.SUCCEEDED for result in results)
        if judged == 0:
            return
        if self.is_halted:
            self._judge_probe(judged, failed)
            return
        self._counts.append((judged, failed))
        total = sum(count for count, _ in self._counts)
        while total - self._counts[0][0] >= self._window_requests:
            total -= self._counts.popleft()[0]
        if total >= self._window_requests and self._is_over(total, sum(bad for _, bad in self._counts)):
            self._halt(total)

    def _is_over(self, total: int, failed: int) -> bool:
        return failed > self._share * total

    def _judge_probe(self, total: int, failed: int) -> None:
        # Results of takes from before the halt come in during the pause: they are no probe.
        if self.allowance(1) == 0:
            return
        if self._is_over(total, failed):
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            self._halt(total)
            return
        self._halted_until_s, self._pause_s = None, self._first_pause_s
        HALTED.labels(*self._labels).set(0)
        log.info("pool_resumed", model=self._labels[0], version=self._labels[1])

    def _halt(self, requests: int) -> None:
        self._counts.clear()
        self._halted_until_s = self._clock.monotonic_s() + self._pause_s
        HALTED.labels(*self._labels).set(1)
        log.error(
            "pool_halted",
            model=self._labels[0],
            version=self._labels[1],
            requests=requests,
            share_limit=self._share,
            pause_s=self._pause_s,
            remedy="look at the dead letters, mend or roll back the version; what waits is kept in the topic",
        )

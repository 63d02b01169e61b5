"""What came of the requests: counts and percentiles over every sample."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

ANSWERED = "200"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outcome of one request: `status` is the HTTP status, or what happened where no answer came."""

    status: str
    code: str = ""
    version: str = ""

    @property
    def is_success(self) -> bool:
        return self.status == ANSWERED and not self.code

    @property
    def is_http(self) -> bool:
        return self.status.isdigit()


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of all samples (linear interpolation between the two nearest), in milliseconds."""

    samples: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in numbers.

    `latency` counts from the intended send time, `service` from the actual one; both over the answers with 200.
    `other_latency` is that of every other outcome, kept apart because errors are fast and timeouts are slow.
    """

    sent: int
    overflow: int
    abandoned: int
    statuses: dict[str, int]
    codes: dict[str, int]
    versions: dict[str, int]
    elapsed_s: float
    answered_per_s: float
    latency: Latency | None
    service: Latency | None
    other_latency: Latency | None
    send_delay: Latency | None

    @property
    def all_succeeded(self) -> bool:
        successes = self.latency.samples if self.latency else 0
        return successes == self.sent > 0 and self.overflow == 0


def summarize_latency(samples_s: array[float]) -> Latency | None:
    """Return the percentiles of the samples (seconds), or None where there are none."""
    if not samples_s:
        return None
    p50, p90, p95, p99, high = (float(ms) for ms in np.percentile(np.asarray(samples_s) * 1e3, [50, 90, 95, 99, 100]))
    return Latency(samples=len(samples_s), p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99, max_ms=high)


def _no_samples() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Tally:
    """Counts as the run goes; `summarize` may be asked at any time. One event loop only."""

    sent: int = 0
    finished: int = 0
    overflow: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    _latency_s: array[float] = field(default_factory=_no_samples)
    _service_s: array[float] = field(default_factory=_no_samples)
    _other_s: array[float] = field(default_factory=_no_samples)
    _send_delay_s: array[float] = field(default_factory=_no_samples)

    def count_overflow(self) -> None:
        """Count an arrival that was not sent because too many requests had no answer yet."""
        self.overflow += 1

    def count_sent(self, *, due_s: float, sent_s: float) -> None:
        self.sent += 1
        self._send_delay_s.append(sent_s - due_s)

    def count_answer(self, answer: Answer, *, due_s: float, sent_s: float, done_s: float) -> None:
        """Count the outcome of a request that was due, sent and done at these times of one clock, in seconds."""
        self.finished += 1
        self.statuses[answer.status] += 1
        if answer.code:
            self.codes[answer.code] += 1
        if answer.is_success:
            self.versions[answer.version] += 1
            self._latency_s.append(done_s - due_s)
            self._service_s.append(done_s - sent_s)
        else:
            self._other_s.append(done_s - due_s)

    def summarize(self, *, elapsed_s: float) -> Summary:
        answered = sum(count for status, count in self.statuses.items() if Answer(status=status).is_http)
        return Summary(
            sent=self.sent,
            overflow=self.overflow,
            abandoned=self.sent - self.finished,
            statuses=dict(sorted(self.statuses.items())),
            codes=dict(self.codes.most_common()),
            versions=dict(sorted(self.versions.items())),
            elapsed_s=elapsed_s,
            answered_per_s=answered / elapsed_s if elapsed_s > 0 else 0.0,
            latency=summarize_latency(self._latency_s),
            service=summarize_latency(self._service_s),
            other_latency=summarize_latency(self._other_s),
            send_delay=summarize_latency(self._send_delay_s),
        )

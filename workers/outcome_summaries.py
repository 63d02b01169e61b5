"""Add up what this worker did, and send a summary of it every interval."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil
import structlog

from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.outcomes import LABEL_CHARS, OTHER, LatencySketches, OutcomeSummary, Sketch, encode_summary
from inferlane.contracts.record import JSON_CONTENT
from inferlane.contracts.results import Status
from inferlane.errors import InferlaneError, ModelError
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.retry import Clock
from workers.rollout_tallies import RolloutTallies

# An idle worker still sends summaries this often. Shorter writes empty records; longer makes the shortest window (10 s)
# miss workers.
_HEARTBEAT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU time that a process has used since it started, and memory that it holds now."""

    cpu_s: float
    memory_bytes: int


def process_usage() -> Usage:
    """Return the usage of this process, threads included."""
    process = psutil.Process()
    times = process.cpu_times()
    return Usage(cpu_s=times.user + times.system, memory_bytes=process.memory_info().rss)


@dataclass(slots=True)
class _Tally:
    outcomes: Counter[Status] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    rows: int = 0
    queue_wait: Sketch = field(default_factory=Sketch)
    inference: Sketch = field(default_factory=Sketch)
    total: Sketch = field(default_factory=Sketch)
    # Predicted rows by class index + 1; the first and the last entry count indices out of range.
    classes: np.ndarray | None = None
    # Predicted rows of a version without classes, by label.
    open_labels: Counter[str] = field(default_factory=Counter)
    values: Sketch = field(default_factory=Sketch)


class OutcomeRecorder:
    """Adds up batches, with array operations instead of a call per record. One event loop; no method waits."""

    def __init__(  # noqa: PLR0913 - whose outcomes they are, and what it asks
        self,
        *,
        model: str,
        version: str,
        worker_id: str,
        clock: Clock,
        classes: Sequence[str] = (),
        usage: Callable[[], Usage] = process_usage,
        tallies: RolloutTallies | None = None,
        is_halted: Callable[[], bool] = lambda: False,
    ) -> None:
        """`tallies` are what rollouts compare; `is_halted` says whether the worker fetches no more."""
        self._model = model
        self._version = version
        self._worker_id = worker_id
        self._clock = clock
        self._labels = tuple(label[:LABEL_CHARS] for label in classes)
        self._usage = usage
        self._tallies = tallies
        self._is_halted = is_halted
        self._failed_in_a_row = 0
        self._used_cpu_s = usage().cpu_s
        self._sequence = 0
        self._from_s = clock.now_s()
        self._reported_s = -float("inf")
        self._tally = _Tally()

    def observe_batch(  # noqa: PLR0913 - one batch has these sides
        self,
        *,
        statuses: Mapping[Status, int],
        rows: int,
        queue_wait_s: np.ndarray,
        inference_s: np.ndarray,
        total_s: np.ndarray,
        labels: np.ndarray | None = None,
        open_labels: Mapping[str, int] | None = None,
        values: np.ndarray | None = None,
        failures: Mapping[str, int] | None = None,
    ) -> None:
        """Add one batch.

        The latencies are float64 `(succeeded requests,)`. `labels` are class indices, any integer type and shape;
        `open_labels` are rows by label, of a version without classes. `values` are the predictions of a regression, any
        numeric type and shape.
        """
        tally = self._tally
        tally.batches += 1
        tally.rows += rows
        tally.outcomes.update(statuses)
        if failures:
            tally.failures.update(failures)
        tally.queue_wait.update(queue_wait_s)
        tally.inference.update(inference_s)
        tally.total.update(total_s)
        if labels is not None:
            bound = len(self._labels)
            counts = np.bincount(np.minimum(np.maximum(labels.ravel(), -1), bound) + 1, minlength=bound + 2)
            tally.classes = counts if tally.classes is None else tally.classes + counts
        if open_labels:
            tally.open_labels.update(open_labels)
        if values is not None:
            tally.values.update(values[np.isfinite(values)])

    def observe_statuses(self, codes: Sequence[str | None]) -> None:
        """Note how requests ended, in their order: None is a success, else an error code."""
        for code in codes:
            if code is None:
                self._failed_in_a_row = 0
            elif code == ModelError.code:
                self._failed_in_a_row += 1

    def take_summary(self) -> OutcomeSummary | None:
        """Return and reset what was added since the last summary; None if nothing was added and that one is recent."""
        tally = self._tally
        at_s = self._clock.monotonic_s()
        if not tally.batches and at_s - self._reported_s < _HEARTBEAT_S:
            return None
        self._tally, self._reported_s = _Tally(), at_s
        usage = self._usage()
        cpu_s, self._used_cpu_s = usage.cpu_s - self._used_cpu_s, usage.cpu_s
        # The wall clock may be set back; an interval must not end before it begins.
        from_s, self._from_s = self._from_s, max(self._from_s, self._clock.now_s())
        self._sequence += 1
        return OutcomeSummary(
            model=self._model,
            version=self._version,
            worker_id=self._worker_id,
            sequence=self._sequence,
            from_s=from_s,
            to_s=self._from_s,
            outcomes={status.value: count for status, count in tally.outcomes.items()},
            failures=dict(tally.failures),
            batches=tally.batches,
            rows=tally.rows,
            latency=LatencySketches(
                queue_wait=tally.queue_wait.to_bytes(),
                inference=tally.inference.to_bytes(),
                total=tally.total.to_bytes(),
            ),
            classes=self._classes(tally.classes) or dict(tally.open_labels),
            values=tally.values.to_bytes(),
            cpu_s=max(0.0, cpu_s),
            memory_bytes=usage.memory_bytes,
            lanes=() if self._tallies is None else self._tallies.take(),
            failed_in_a_row=self._failed_in_a_row,
            is_halted=self._is_halted(),
        )

    def _classes(self, counts: np.ndarray | None) -> dict[str, int]:
        if counts is None:
            return {}
        # Add, do not assign: two labels may be equal after they are cut, and a class may be called `other`.
        named: Counter[str] = Counter()
        for label, count in zip((*self._labels, OTHER), (*counts[1:-1], counts[0] + counts[-1]), strict=True):
            if count:
                named[label] += int(count)
        return dict(named)


log = structlog.get_logger(__name__)

_HEADERS = [("content-type", JSON_CONTENT)]


async def report_outcomes(
    recorder: "OutcomeRecorder", producer: BatchProducer, *, topic: str, interval_s: float
) -> None:
    """Send a summary every interval until cancelled, then send the last one."""
    try:
        while True:
            await asyncio.sleep(interval_s)
            await _report(recorder, producer, topic)
    finally:
        await _report(recorder, producer, topic)


async def _report(recorder: "OutcomeRecorder", producer: BatchProducer, topic: str) -> None:
    summary = recorder.take_summary()
    if summary is None:
        return
    key = f"{summary.model}/{summary.version}".encode()
    try:
        await producer.send([OutRecord(topic, key, encode_summary(summary), _HEADERS)])
    except InferlaneError as error:
        # The windows have a gap; no accepted request depends on a summary.
        log.warning("summary_lost", model=summary.model, version=summary.version, error=str(error))

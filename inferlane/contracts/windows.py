"""Outcome windows: summaries of one version gathered in slots of time.

Slot `i` is the time from `i * slot_s` to `(i + 1) * slot_s`; a summary belongs to the slot that its `to_s` lies in.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from inferlane.contracts.feedback import FeedbackReport
from inferlane.contracts.lane_tallies import LaneTally, merge_tallies
from inferlane.contracts.outcomes import OTHER, TERMINAL, LatencySketches, OutcomeSummary, merge_sketches, quantiles
from inferlane.contracts.results import Status
from inferlane.errors import UNDECODABLE, DecodeError, clipped

# Names of classes and of failures that a slot counts one by one. Models may have more classes, but a window does not
# show more, and a writer to the topic could invent any number of names.
_MAX_NAMES = 1_000


class WorkerUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker reported in one slot. `sequences` are the summaries that it holds, ascending."""

    sequences: tuple[int, ...] = ()
    newest_s: float = 0.0
    newest_sequence: int = 0
    memory_bytes: int = 0
    cpu_s: float = 0.0
    failed_in_a_row: int = 0
    is_halted: bool = False


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """All summaries of one version in one slot of time."""

    model: str
    version: str
    index: int
    outcomes: dict[str, int] = {}
    failures: dict[str, int] = {}
    batches: int = 0
    rows: int = 0
    latency: LatencySketches = LatencySketches()
    classes: dict[str, int] = {}
    values: bytes = b""
    workers: dict[str, WorkerUse] = {}
    lanes: tuple[LaneTally, ...] = ()


def slot_index(at_s: float, *, slot_s: int) -> int:
    """Return the slot that a moment lies in."""
    return int(at_s // slot_s)


def slot_indices(*, window_s: float, now_s: float, slot_s: int) -> range:
    """Return the slots that a window touches, the one at its old edge whole."""
    return range(slot_index(now_s - window_s, slot_s=slot_s), slot_index(now_s, slot_s=slot_s) + 1)


def add(slot: Slot, summary: OutcomeSummary) -> Slot:
    """Return the slot with this summary in it; the same object if it is in it already."""
    use = slot.workers.get(summary.worker_id, WorkerUse())
    if summary.sequence in use.sequences:
        return slot
    # The time alone does not tell which summary is newer: the clock may have been set back.
    is_newest = (summary.to_s, summary.sequence) >= (use.newest_s, use.newest_sequence)
    use = WorkerUse(
        sequences=tuple(sorted((*use.sequences, summary.sequence))),
        newest_s=max(use.newest_s, summary.to_s),
        newest_sequence=summary.sequence if is_newest else use.newest_sequence,
        memory_bytes=summary.memory_bytes if is_newest else use.memory_bytes,
        cpu_s=use.cpu_s + summary.cpu_s,
        failed_in_a_row=summary.failed_in_a_row if is_newest else use.failed_in_a_row,
        is_halted=summary.is_halted if is_newest else use.is_halted,
    )
    return Slot(
        model=slot.model,
        version=slot.version,
        index=slot.index,
        outcomes=sum_counts([slot.outcomes, summary.outcomes]),
        failures=_bounded(sum_counts([slot.failures, summary.failures])),
        batches=slot.batches + summary.batches,
        rows=slot.rows + summary.rows,
        latency=merge_latency([slot.latency, summary.latency]),
        classes=_bounded(sum_counts([slot.classes, summary.classes])),
        values=merge_sketches([slot.values, summary.values]),
        workers={**slot.workers, summary.worker_id: use},
        lanes=merge_tallies((*slot.lanes, *summary.lanes)),
    )


def _bounded(counts: dict[str, int]) -> dict[str, int]:
    """Return the counts of the largest names; those past the bound are counted together, as are any that come later."""
    if len(counts) <= _MAX_NAMES:
        return counts
    largest = Counter(counts).most_common(_MAX_NAMES - 1)
    kept = {name: count for name, count in largest if name != OTHER}
    kept[OTHER] = sum(counts.values()) - sum(kept.values())
    return kept


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum for each name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def merge_latency(parts: Sequence[LatencySketches]) -> LatencySketches:
    """Return the sketches of all values of all parts."""
    return LatencySketches(
        queue_wait=merge_sketches(part.queue_wait for part in parts),
        inference=merge_sketches(part.inference for part in parts),
        total=merge_sketches(part.total for part in parts),
    )


encode_slot = msgspec.json.Encoder().encode
_decode_slot = msgspec.json.Decoder(Slot).decode


def decode_slot(raw: bytes | str) -> Slot:
    """Read a stored slot.

    Raises:
        DecodeError: the bytes cannot be decoded.
    """
    try:
        return _decode_slot(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"stored bytes hold no outcome slot: {clipped(str(error))}") from error


# A worker that has not reported for this long is gone: it has missed six heartbeats.
WORKER_SILENT_S = 30.0
_MS = 1000.0
_LATENCY_RANKS = (0.5, 0.95, 0.99)
_VALUE_RANKS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds; None where nothing succeeded."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class LatencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The three parts of a request's time."""

    queue_wait: Percentiles
    inference: Percentiles
    total: Percentiles


class ResourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """The workers that reported recently, the sum of their memory, and the CPU time of all over the window."""

    workers: int
    cpu_cores: float
    memory_bytes: int


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a version did over the last `window_s` seconds; the body of `GET /v1/metrics/{version}`.

    `age_s` is how old the newest data is, None without any. `error_rate` is FAILED and EXPIRED over all requests, None
    without any. `prediction_values` has the quantiles of a regression's predictions, None of a classifier.
    """

    model: str
    version: str
    window_s: float
    age_s: float | None
    requests: int
    rate_per_s: float
    error_rate: float | None
    outcomes: dict[str, int]
    failures: dict[str, int]
    latency_ms: LatencyReport
    batches: int
    rows: int
    prediction_distribution: dict[str, int]
    prediction_values: dict[str, float] | None
    resources: ResourceReport
    # Quality and reward since the first feedback, not since the start of the window; None without feedback.
    feedback: FeedbackReport | None = None


def report(
    slots: Sequence[Slot], *, model: str, version: str, window_s: float, now_s: float, slot_s: int
) -> WindowReport:
    """Merge the slots of `slot_indices` that hold a summary.

    A slot is never cut: the oldest one counts whole, and rates divide by the time since that slot began, which
    is up to `slot_s` longer than `window_s`. The last `outcome_interval_s` or so is missing, because workers have not
    reported it yet: a rate over 10 s may be a tenth too low; over a minute the error is negligible.
    """
    covered_s = now_s - slot_indices(window_s=window_s, now_s=now_s, slot_s=slot_s).start * slot_s
    outcomes = sum_counts([dict.fromkeys(sorted(TERMINAL), 0), *(slot.outcomes for slot in slots)])
    requests = sum(outcomes.values())
    latency = merge_latency([slot.latency for slot in slots])
    newest_s = max((use.newest_s for slot in slots for use in slot.workers.values()), default=None)
    return WindowReport(
        model=model,
        version=version,
        window_s=window_s,
        age_s=None if newest_s is None else max(0.0, now_s - newest_s),
        requests=requests,
        rate_per_s=requests / covered_s,
        error_rate=(requests - outcomes[Status.SUCCEEDED]) / requests if requests else None,
        outcomes=outcomes,
        failures=sum_counts(slot.failures for slot in slots),
        latency_ms=LatencyReport(
            queue_wait=_percentiles(latency.queue_wait),
            inference=_percentiles(latency.inference),
            total=_percentiles(latency.total),
        ),
        batches=sum(slot.batches for slot in slots),
        rows=sum(slot.rows for slot in slots),
        prediction_distribution=sum_counts(slot.classes for slot in slots),
        prediction_values=_prediction_values(slots),
        resources=_resources(slots, now_s=now_s, covered_s=covered_s),
    )


def _resources(slots: Iterable[Slot], *, now_s: float, covered_s: float) -> ResourceReport:
    newest: dict[str, WorkerUse] = {}
    cpu_s = 0.0
    for slot in slots:
        for worker_id, use in slot.workers.items():
            cpu_s += use.cpu_s
            if use.newest_s >= newest.get(worker_id, use).newest_s:
                newest[worker_id] = use
    heard = [use for use in newest.values() if use.newest_s > now_s - WORKER_SILENT_S]
    return ResourceReport(
        workers=len(heard), cpu_cores=cpu_s / covered_s, memory_bytes=sum(use.memory_bytes for use in heard)
    )


def _prediction_values(slots: Sequence[Slot]) -> dict[str, float] | None:
    values = quantiles(merge_sketches(slot.values for slot in slots), _VALUE_RANKS)
    if values is None:
        return None
    return {f"p{rank * 100:g}": value for rank, value in zip(_VALUE_RANKS, values, strict=True)}


def _percentiles(sketch: bytes) -> Percentiles:
    found = quantiles(sketch, _LATENCY_RANKS)
    if found is None:
        return Percentiles()
    p50, p95, p99 = (value * _MS for value in found)
    return Percentiles(p50=p50, p95=p95, p99=p99)

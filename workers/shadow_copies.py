"""Shadow copies in a worker: send copies of what it answered, and compare the copies that it gets."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import structlog

from inferlane.contracts.lane_tallies import run_bin
from inferlane.contracts.results import Status
from inferlane.contracts.shadow import (
    MANUAL_RUN,
    Answer,
    Disagreement,
    ShadowCounts,
    answer_of,
    classes_digest,
    copy_deadline_s,
    copy_record,
    sum_of,
)
from inferlane.errors import InferlaneError, clipped
from inferlane.runtime.metrics.worker_metrics import SHADOW_COPIES
from workers.copy_gatherer import CopyGatherer, GatheredCopy
from workers.row_comparison import RowComparison, compare_all, labels_of

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.delivery import Reply
    from inferlane.runtime.kafka.record_writer import Sender
    from inferlane.runtime.redis.shadow_results import ShadowResults
    from inferlane.runtime.retry import Clock
    from models.catalog import ModelVersion
    from workers.batching import BatchRun, InferredRequest
    from workers.requests import Request
    from workers.rollout_tallies import RolloutTallies

    _Pair: TypeAlias = tuple[InferredRequest, Answer, RowComparison]

log = structlog.get_logger(__name__)

_ROWS_A_BATCH = 5
_SHOWN_VALUES, _SHOWN_CHARS = 16, 200


class ShadowCopies:
    """Sends copies of answered requests, and compares copies with their originals. Used from one event loop.

    Nothing here waits for a client's request or makes one wait, and nothing here raises: a copy that cannot be sent,
    compared or kept is counted and dropped.
    """

    def __init__(
        self,
        version: "ModelVersion",
        sender: "Sender",
        results: "ShadowResults",
        *,
        names: "Names",
        clock: "Clock",
        tallies: "RolloutTallies | None" = None,
    ) -> None:
        self._version = version
        self._results = results
        self._names = names
        self._clock = clock
        self._tallies = tallies
        self._label_output = version.label_output
        self._classes_digest = classes_digest(version.classes)
        self._counts = {
            outcome: SHADOW_COPIES.labels(version.model, version.version, outcome)
            for outcome in ("sent", "not_sent", "compared", "failed", "expired", "not_compared")
        }
        self._gatherer = CopyGatherer(sender, clock=clock, sent=self._counts["sent"], not_sent=self._counts["not_sent"])

    async def close(self) -> None:
        """Send the copies that were gathered, wait a moment for them, then give them up."""
        await self._gatherer.close()

    def send_copies(self, run: "BatchRun | None") -> None:
        """Gather the copies that the router asked for, of requests whose results are delivered; they are sent soon."""
        if run is None or all(one.request.headers.shadow is None for one in run.inferred):
            return
        row_time_s = run.times.inference_s / max(1, sum(one.request.rows for one in run.inferred))
        self._gatherer.add([copy for one in run.inferred if (copy := self._copy_of(one, row_time_s)) is not None])

    def _copy_of(self, one: "InferredRequest", row_time_s: float) -> GatheredCopy | None:
        request = one.request
        if request.headers.shadow is None or one.outputs is None:
            return None
        now_s = self._clock.now_s()
        deadline_s = copy_deadline_s(request.headers, now_s=now_s)
        if deadline_s <= now_s:
            self._counts["not_sent"].inc()
            return None
        try:
            labels = labels_of(one.outputs, self._label_output, self._version.classes)
            answer = Answer(
                outputs=one.outputs,
                row_time_s=row_time_s,
                labels=None if labels is None else tuple(labels),
                classes_digest=self._classes_digest,
            )
            record = copy_record(
                request.record,
                request.headers,
                answer,
                answered_by=self._version.version,
                names=self._names,
                deadline_s=deadline_s,
            )
            return GatheredCopy.of(record, deadline_s=deadline_s)
        except Exception as error:  # noqa: BLE001 - outputs that cannot be encoded are no failure of the copy
            log.debug("shadow_copy_not_made", request_id=request.headers.request_id, error=repr(error))
            self._counts["not_sent"].inc()
            return None

    async def compare(self, batches: "Sequence[tuple[BatchRun | None, Sequence[Reply]]]") -> None:
        """Compare batches of copies with the answers that they carry, and keep what was found: one write a run."""
        found: dict[str, list[tuple[ShadowCounts, Sequence[Disagreement]]]] = {}
        for run, replies in batches:
            for name, counts, rows in self._compared_by_run(run, replies):
                found.setdefault(name, []).append((counts, rows))
        for name, parts in found.items():
            counts = sum_of([counts for counts, _ in parts])
            rows = _worst(row for _, rows in parts for row in rows)
            try:
                await self._results.add(self._version.model, self._version.version, name, counts, rows)
            except InferlaneError as error:
                self._counts["not_compared"].inc(counts.copies)
                log.warning("shadow_results_not_kept", copies=counts.copies, error=str(error))

    def _compared_by_run(
        self, run: "BatchRun | None", replies: "Sequence[Reply]"
    ) -> "Iterator[tuple[str, ShadowCounts, Sequence[Disagreement]]]":
        """Compare the copies of one batch; count those of a rollout, and yield what is to be kept of each run."""
        by_run: dict[tuple[str, str], list[Reply]] = {}
        for reply in replies:
            # The source of what nobody has answered is a recorded request: its own result says nothing here.
            if reply.shadow_run:
                by_run.setdefault((reply.shadow_run, reply.rollout), []).append(reply)
        inferred = () if run is None else run.inferred
        rows_of_batch = sum(one.request.rows for one in inferred)
        row_time_s = 0.0 if run is None else run.times.inference_s / max(1, rows_of_batch)
        for (name, rollout), ours in by_run.items():
            own = [one for one in inferred if (one.request.headers.shadow_run or MANUAL_RUN) == name]
            counts, rows = self._compared(own, ours, row_time_s)
            if rollout and self._tallies is not None:
                run_of_batch = None if run is None else run_bin(rows_of_batch, run.times.inference_s)
                self._tallies.add_shadow(rollout, counts, run_of_batch, own)
            yield name, counts, rows

    def _compared(
        self, inferred: "Sequence[InferredRequest]", replies: "Sequence[Reply]", row_time_s: float
    ) -> tuple[ShadowCounts, Sequence[Disagreement]]:
        failed = [reply.result for reply in replies if reply.result.status is Status.FAILED]
        expired = sum(reply.result.status is Status.EXPIRED for reply in replies)
        pairs = self._compare_all(inferred)
        self._counts["compared"].inc(len(pairs))
        self._counts["failed"].inc(len(failed))
        self._counts["expired"].inc(expired)
        agrees = np.concatenate([found.agrees for _, _, found in pairs]) if pairs else np.zeros(0, bool)
        counts = ShadowCounts(
            copies=len(replies),
            failed=len(failed),
            expired=expired,
            compared=len(agrees),
            agreed=int(agrees.sum()),
            distance=float(np.concatenate([found.distance for _, _, found in pairs]).sum()) if pairs else 0.0,
            failures=dict(Counter(result.error_code or "unknown" for result in failed)),
            times={run_bin(1, row_time_s): len(pairs)} if pairs else {},
            original_times=dict(Counter(run_bin(1, answer.row_time_s) for _, answer, _ in pairs)),
        )
        apart = [] if agrees.all() else [(one, found) for one, _, found in pairs if not found.agrees.all()]
        return counts, _worst(row for one, found in apart for row in self._disagreements(one.request, found))

    def _compare_all(self, inferred: "Sequence[InferredRequest]") -> "Sequence[_Pair]":
        """Return the answer that each copy carries, and how it compares, of those that can be compared."""
        answered = [
            (one, answer, one.outputs)
            for one in inferred
            if one.outputs is not None and (answer := self._answer_of(one.request)) is not None
        ]
        try:
            found = self._rows_of([(answer, outputs) for _, answer, outputs in answered])
        except Exception:  # noqa: BLE001 - one copy must not keep the others from being compared
            found = [self._rows_alone(one, answer, outputs) for one, answer, outputs in answered]
        pairs = [
            (one, answer, rows) for (one, answer, _), rows in zip(answered, found, strict=True) if rows is not None
        ]
        self._counts["not_compared"].inc(len(answered) - len(pairs))
        return pairs

    def _answer_of(self, request: "Request") -> Answer | None:
        try:
            return answer_of(request.record)
        except InferlaneError as error:
            log.warning("shadow_copy_not_compared", request_id=request.headers.request_id, error=repr(error))
            self._counts["not_compared"].inc()
            return None

    def _rows_of(self, pairs: "Sequence[tuple[Answer, Mapping[str, np.ndarray]]]") -> "Sequence[RowComparison | None]":
        return compare_all(pairs, label_output=self._label_output, classes=self._version.classes)

    def _rows_alone(
        self, one: "InferredRequest", answer: Answer, outputs: "Mapping[str, np.ndarray]"
    ) -> "RowComparison | None":
        try:
            (rows,) = self._rows_of([(answer, outputs)])
        except Exception as error:  # noqa: BLE001 - whatever a version gives, it must not end its worker
            log.warning("shadow_copy_not_compared", request_id=one.request.headers.request_id, error=repr(error))
            return None
        return rows

    def _disagreements(self, request: "Request", found: "RowComparison") -> "Sequence[Disagreement]":
        """Return the rows of one request that disagree most."""
        worst = [row for row in np.argsort(-found.distance, kind="stable").tolist() if not found.agrees[row]]
        return [
            Disagreement(
                request_id=request.headers.request_id,
                row=row,
                at_s=self._clock.now_s(),
                distance=float(found.distance[row]),
                original=found.original[row],
                shadow=found.shadow[row],
                inputs={name: shown_values(array[row]) for name, array in request.tensors.items()},
            )
            for row in worst[:_ROWS_A_BATCH]
        ]


def _worst(rows: "Iterable[Disagreement]") -> "Sequence[Disagreement]":
    return sorted(rows, key=lambda row: row.distance, reverse=True)[:_ROWS_A_BATCH]


def shown_values(row: np.ndarray) -> list[Any]:
    """Return the first values of a row, cut to what a person reads; of raw bytes their number."""

    def shown(value: Any) -> Any:
        if isinstance(value, bytes):
            return f"{len(value)} bytes"
        return clipped(value, limit_chars=_SHOWN_CHARS) if isinstance(value, str) else value

    return list(map(shown, row.ravel()[:_SHOWN_VALUES].tolist()))

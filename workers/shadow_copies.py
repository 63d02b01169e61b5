"""Shadow copies in a worker: send copies of what it answered, and compare the copies that it gets."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    copy_record,
)
from inferlane.errors import InferlaneError, clipped
from inferlane.runtime.metrics.worker_metrics import SHADOW_COPIES
from workers.replies import class_output
from workers.row_comparison import compare_rows, labels_of

if TYPE_CHECKING:
    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.contracts.naming import Names
    from inferlane.runtime.delivery import Reply
    from inferlane.runtime.kafka.record_writer import Sender
    from inferlane.runtime.redis.shadow_results import ShadowResults
    from inferlane.runtime.retry import Clock
    from models.catalog import ModelVersion
    from workers.batching import BatchRun, InferredRequest
    from workers.requests import Request
    from workers.rollout_tallies import RolloutTallies
    from workers.row_comparison import RowComparison

log = structlog.get_logger(__name__)

# Bytes of copies that are on their way to the broker; above it copies are dropped. More is memory that a broker which
# is away takes from the requests of clients.
_MAX_PENDING_BYTES = 8 * 1024 * 1024
_CLOSE_S = 1.0
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
        self._sender = sender
        self._results = results
        self._names = names
        self._clock = clock
        self._tallies = tallies
        self._label_output = class_output(version)
        self._classes_digest = classes_digest(version.classes)
        self._pending: set[asyncio.Task[None]] = set()
        self._pending_bytes = 0
        self._counts = {
            outcome: SHADOW_COPIES.labels(version.model, version.version, outcome)
            for outcome in ("sent", "not_sent", "compared", "failed", "expired", "not_compared")
        }

    async def close(self) -> None:
        """Wait a moment for the copies that are on their way, then give them up."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=_CLOSE_S)
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def send_copies(self, run: "BatchRun | None") -> None:
        """Begin to send the copies that the router asked for, of requests whose results are delivered."""
        if run is None or all(one.request.headers.shadow is None for one in run.inferred):
            return
        row_time_s = run.times.inference_s / max(1, sum(one.request.rows for one in run.inferred))
        copies = [copy for one in run.inferred if (copy := self._copy_of(one, row_time_s)) is not None]
        size_bytes = sum(len(copy.value) for copy in copies)
        if self._pending_bytes + size_bytes > _MAX_PENDING_BYTES:
            self._counts["not_sent"].inc(len(copies))
            return
        self._pending_bytes += size_bytes
        task = asyncio.create_task(self._send(copies, size_bytes))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _copy_of(self, one: "InferredRequest", row_time_s: float) -> "OutRecord | None":
        request = one.request
        if request.headers.shadow is None or one.outputs is None:
            return None
        try:
            labels = labels_of(one.outputs, self._label_output, self._version.classes)
            answer = Answer(
                outputs=one.outputs,
                row_time_s=row_time_s,
                labels=None if labels is None else tuple(labels),
                classes_digest=self._classes_digest,
            )
            return copy_record(
                request.record,
                request.headers,
                answer,
                answered_by=self._version.version,
                names=self._names,
                now_s=self._clock.now_s(),
            )
        except Exception as error:  # noqa: BLE001 - outputs that cannot be encoded are no failure of the copy
            log.debug("shadow_copy_not_made", request_id=request.headers.request_id, error=repr(error))
            self._counts["not_sent"].inc()
            return None

    async def _send(self, copies: "Sequence[OutRecord]", size_bytes: int) -> None:
        try:
            outcomes = await self._sender.send_each(copies)
        except InferlaneError as error:
            outcomes = [error] * len(copies)
        finally:
            self._pending_bytes -= size_bytes
        lost = [error for error in outcomes if error is not None]
        self._counts["sent"].inc(len(outcomes) - len(lost))
        if lost:
            self._counts["not_sent"].inc(len(lost))
            log.warning("shadow_copies_not_sent", copies=len(lost), error=str(lost[0]))

    async def compare(self, run: "BatchRun | None", replies: "Sequence[Reply]") -> None:
        """Compare a batch of copies with the answers that they carry, and keep what was found."""
        by_run: dict[tuple[str, str], list[Reply]] = {}
        for reply in replies:
            # The source of what nobody has answered is a recorded request: its own result says nothing here.
            if reply.shadow_run:
                by_run.setdefault((reply.shadow_run, reply.rollout), []).append(reply)
        inferred = () if run is None else run.inferred
        row_time_s = 0.0 if run is None else run.times.inference_s / max(1, sum(one.request.rows for one in inferred))
        for (name, rollout), ours in by_run.items():
            own = [one for one in inferred if (one.request.headers.shadow_run or MANUAL_RUN) == name]
            counts, rows = self._compared(own, ours, row_time_s)
            if rollout and self._tallies is not None:
                run_of_batch = (
                    run_bin(sum(one.request.rows for one in inferred), run.times.inference_s) if run else None
                )
                self._tallies.add_shadow(rollout, counts, run_of_batch, own)
            try:
                await self._results.add(self._version.model, self._version.version, name, counts, rows)
            except InferlaneError as error:
                self._counts["not_compared"].inc(len(ours))
                log.warning("shadow_results_not_kept", copies=len(ours), error=str(error))

    def _compared(
        self, inferred: "Sequence[InferredRequest]", replies: "Sequence[Reply]", row_time_s: float
    ) -> tuple[ShadowCounts, Sequence[Disagreement]]:
        failed = [reply.result for reply in replies if reply.result.status is Status.FAILED]
        expired = sum(reply.result.status is Status.EXPIRED for reply in replies)
        pairs = [(one, answer, found) for one in inferred for answer, found in self._compare_one(one)]
        self._counts["compared"].inc(len(pairs))
        self._counts["failed"].inc(len(failed))
        self._counts["expired"].inc(expired)
        counts = ShadowCounts(
            copies=len(replies),
            failed=len(failed),
            expired=expired,
            compared=sum(len(found.agrees) for _, _, found in pairs),
            agreed=sum(int(found.agrees.sum()) for _, _, found in pairs),
            distance=sum(float(found.distance.sum()) for _, _, found in pairs),
            failures=dict(Counter(result.error_code or "unknown" for result in failed)),
            times={run_bin(1, row_time_s): len(pairs)} if pairs else {},
            original_times=dict(Counter(run_bin(1, answer.row_time_s) for _, answer, _ in pairs)),
        )
        rows = [row for one, _, found in pairs for row in self._disagreements(one.request, found)]
        return counts, sorted(rows, key=lambda row: row.distance, reverse=True)[:_ROWS_A_BATCH]

    def _compare_one(self, one: "InferredRequest") -> "Sequence[tuple[Answer, RowComparison]]":
        """Return the answer that a copy carries, and how it compares; nothing if it cannot be compared."""
        try:
            answer = answer_of(one.request.record)
            if answer is None or one.outputs is None:
                return ()
            found = compare_rows(answer, one.outputs, label_output=self._label_output, classes=self._version.classes)
            if found is not None:
                return ((answer, found),)
        except Exception as error:  # noqa: BLE001 - whatever a version gives, it must not end its worker
            log.warning("shadow_copy_not_compared", request_id=one.request.headers.request_id, error=repr(error))
        self._counts["not_compared"].inc()
        return ()

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


def shown_values(row: np.ndarray) -> list[Any]:
    """Return the first values of a row, cut to what a person reads; of raw bytes their number."""

    def shown(value: Any) -> Any:
        if isinstance(value, bytes):
            return f"{len(value)} bytes"
        return clipped(value, limit_chars=_SHOWN_CHARS) if isinstance(value, str) else value

    return list(map(shown, row.ravel()[:_SHOWN_VALUES].tolist()))

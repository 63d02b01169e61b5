"""What a worker did, for Prometheus, for the log, for the outcome windows and for the limit of failures."""

from collections import Counter as Tally
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import trace_id_of
from inferlane.contracts.results import Status
from workers.lane_metrics import LaneMetrics
from workers.predictions import PredictionCounts, Predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.record import KafkaRecord
    from inferlane.runtime.delivery import Answer
    from models.catalog import ModelVersion
    from workers.answers import RunTimes
    from workers.batching import Outcome
    from workers.failure_limit import FailureLimit
    from workers.outcomes import OutcomeRecorder
    from workers.spans import BatchSpans

log = structlog.get_logger(__name__)

_MS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What was answered together. `run` is None if nothing had to be inferred; times are seconds since the epoch."""

    lane: Lane
    taken_s: float
    run: "RunTimes | None" = None
    outcomes: "Sequence[Outcome]" = ()


class Observer:
    """Counts once a batch; nothing here costs a call a record, but for records that failed."""

    def __init__(
        self,
        version: "ModelVersion",
        recorder: "OutcomeRecorder",
        limit: "FailureLimit",
        *,
        spans: "BatchSpans | None" = None,
    ) -> None:
        self._limit = limit
        self._spans = spans
        self._recorder = recorder
        self._lanes = {lane: LaneMetrics(version.model, version.version, lane) for lane in Lane}
        self._predictions = Predictions(version)
        self._counts = PredictionCounts(version)
        self._log = log.bind(model=version.model, version=version.version)

    def observe_take(self, records: "Sequence[KafkaRecord]", lane: Lane, *, now_s: float) -> None:
        """Count records that came from the router."""
        stamped_s = np.array([record.timestamp for record in records], np.float64) * _MS
        self._lanes[lane].topic_wait.observe_many(np.maximum(now_s - stamped_s, 0.0))

    def observe(self, batch: Batch, answers: "Sequence[Answer]", *, now_s: float) -> None:
        """Count delivered answers and the run that they came from; `now_s` is when they were durable."""
        if not answers:
            return
        lane = self._lanes[batch.lane]
        results = [answer.result for answer in answers]
        self._limit.note(results)
        lane.count(results)
        done = [result for result in results if result.status is Status.SUCCEEDED]
        rows = sum(result.rows for result in done)
        queue_wait_s = np.array([result.queue_wait_s for result in done])
        accepted_s = np.array([result.accepted_s for result in done])
        if batch.run is not None:
            lane.note_run(taken_s=batch.taken_s, run=batch.run, stored_s=now_s, rows=rows)
        lane.queue_wait.observe_many(queue_wait_s)
        lane.total.observe_many(np.maximum(now_s - accepted_s, 0.0))
        classes, values = self._predictions.of(batch.outcomes)
        self._counts.add(classes, values)
        self._recorder.observe_batch(
            statuses=Tally(result.status for result in results),
            rows=rows,
            queue_wait_s=queue_wait_s,
            inference_s=np.array([result.inference_s for result in done]),
            total_s=np.array([result.finished_s - result.accepted_s for result in done]),
            labels=classes,
            values=values,
            failures=Tally(result.error_code or "unknown" for result in results if result.error_code is not None),
        )
        self._say(batch, answers, rows)
        if self._spans is not None:
            self._spans.add(batch, answers, stored_s=now_s)

    def _say(self, batch: Batch, answers: "Sequence[Answer]", rows: int) -> None:
        # At DEBUG: alone, a request is a batch, and a line each would cost as much as its inference.
        inference_s = batch.run.inference_s if batch.run else 0.0
        self._log.debug("batch_answered", lane=batch.lane, requests=len(answers), rows=rows, inference_s=inference_s)
        for answer in answers:
            if answer.dead is not None:
                self._log.warning(
                    "request_failed",
                    lane=batch.lane,
                    request_id=answer.result.request_id,
                    trace_id=trace_id_of(answer.trace_parent),
                    code=answer.result.error_code,
                    attempt=answer.result.attempt,
                )

"""Report each batch to Prometheus, the log, the traces, the outcome summaries and the failure limit."""

from collections import Counter as Tally
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import structlog

from inferlane import errors
from inferlane.contracts.kafka_record import trace_id_of
from inferlane.contracts.naming import Lane
from inferlane.contracts.outcomes import OTHER
from inferlane.contracts.results import CANCELLED, EXPIRED, Result, Status
from inferlane.runtime.metrics import worker_metrics as metrics
from inferlane.runtime.metrics.instruments import NONE, bounded
from inferlane.runtime.tracing import message_attributes, version_attributes
from workers.open_labels import OpenLabels
from workers.replies import PredictionCounts, Predictions

if TYPE_CHECKING:
    from inferlane.contracts.kafka_record import KafkaRecord
    from inferlane.contracts.naming import Names
    from inferlane.runtime.delivery import Reply
    from inferlane.runtime.tracing.spans import Span, Tracing
    from models.catalog import ModelVersion
    from workers.batching import Batch, RunTimes
    from workers.failure_limit import FailureLimit
    from workers.outcome_summaries import OutcomeRecorder
    from workers.rollout_tallies import RolloutTallies

_STORE = {"db.system.name": "redis", "db.operation.name": "put"}


class BatchSpans:
    """Makes the spans of one version's batches after their replies are delivered, so that tracing delays no reply."""

    def __init__(self, tracing: "Tracing", version: "ModelVersion", names: "Names") -> None:
        self._tracing = tracing
        self._name = f"batch {version.model} {version.version}"
        self._topics = {lane: names.work_topic(version.model, version.version, lane) for lane in Lane}
        self._attributes = version_attributes(version.model, version.version)

    def add(self, batch: "Batch", replies: "Sequence[Reply]", *, stored_s: float) -> None:
        """Make the spans of delivered replies; they were durable at `stored_s`, seconds since the epoch."""
        kept = [(reply, span) for reply in replies if (span := self._begin(batch, reply)).is_kept]
        if not kept:
            return
        whole = self._tracing.begin(
            self._name,
            kind="INTERNAL",
            at_s=batch.fetched_s,
            links=[span for _, span in kept],
            attributes={
                **self._attributes,
                "messaging.batch.message_count": len(replies),
                "inferlane.rows": sum(reply.result.rows for reply in replies),
            },
        )
        for reply, span in kept:
            span.link(whole)
            self._stages(batch, reply, span, stored_s)
            span.end(
                at_s=stored_s,
                error=reply.result.error_code,
                attributes={"inferlane.status": reply.result.status.value, "inferlane.rows": reply.result.rows},
            )
        whole.end(at_s=stored_s)

    def _begin(self, batch: "Batch", reply: "Reply") -> "Span":
        topic = self._topics[batch.lane]
        return self._tracing.begin(
            f"process {topic}",
            kind="CONSUMER",
            parent=reply.trace_parent,
            at_s=batch.fetched_s,
            attributes=message_attributes(topic, reply.result.request_id) | self._attributes,
        )

    def _stages(self, batch: "Batch", reply: "Reply", span: "Span", stored_s: float) -> None:
        if batch.run is not None and reply.result.status is Status.SUCCEEDED:
            infer = self._tracing.begin(
                "infer", kind="INTERNAL", parent=span.traceparent, at_s=batch.run.times.started_s
            )
            infer.end(at_s=batch.run.times.ended_s)
        store = self._tracing.begin(
            "store result", kind="CLIENT", parent=span.traceparent, at_s=reply.result.finished_s, attributes=_STORE
        )
        store.end(at_s=stored_s)


_ERRORS = (
    errors.DecodeError,
    errors.FatalRecordError,
    errors.InferlaneError,
    errors.InvalidInputError,
    errors.ModelError,
    errors.PayloadTooLargeError,
)
# The statuses and reasons with which a worker can end a request.
_REASONS: dict[Status, tuple[str, ...]] = {
    Status.SUCCEEDED: (NONE,),
    Status.EXPIRED: (EXPIRED,),
    Status.FAILED: (
        *(error.code for error in _ERRORS),
        CANCELLED,
        OTHER,
    ),
}


class WorkerLaneMetrics:
    """The metrics of one lane. Every series exists from the start, so that a rate includes the first failure."""

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
        for (status, code), count in Tally([(result.status, result.error_code) for result in results]).items():
            self._requests[status, bounded(code, _REASONS[status])].inc(count)

    def note_run(self, *, fetched_s: float, run: "RunTimes", stored_s: float, rows: int) -> None:
        """Count a run, of which `rows` rows succeeded, and the time before and after it."""
        self._batch_wait.observe(max(0.0, run.started_s - fetched_s))
        self._inference.observe(run.inference_s)
        self._busy.inc(run.inference_s)
        self._store.observe(max(0.0, stored_s - run.ended_s))
        if rows:
            self._rows.observe(rows)


log = structlog.get_logger(__name__)

_MS = 1e-3


class BatchTelemetry:
    """Reports once per batch; only failed records cost a call each."""

    def __init__(
        self,
        version: "ModelVersion",
        recorder: "OutcomeRecorder",
        limit: "FailureLimit",
        *,
        spans: "BatchSpans | None" = None,
        tallies: "RolloutTallies | None" = None,
    ) -> None:
        self._tallies = tallies
        self._limit = limit
        # Whether the last batch had a failure: then the next success resets the count of failures in a row.
        self._has_failed = False
        self._spans = spans
        self._recorder = recorder
        self._lanes = {lane: WorkerLaneMetrics(version.model, version.version, lane) for lane in Lane}
        self._predictions = Predictions(version)
        self._counts = PredictionCounts(version)
        self._open_labels = OpenLabels(version)
        self._log = log.bind(model=version.model, version=version.version)

    def observe_fetched(self, records: "Sequence[KafkaRecord]", lane: Lane, *, now_s: float) -> None:
        """Observe how long fetched records waited in the topic."""
        stamped_s = np.array([record.timestamp for record in records], np.float64) * _MS
        self._lanes[lane].topic_wait.observe_many(np.maximum(now_s - stamped_s, 0.0))

    def observe(self, batch: "Batch", replies: "Sequence[Reply]", *, now_s: float) -> None:
        """Report a batch whose replies are delivered; they were durable at `now_s`, seconds since the epoch."""
        if not replies:
            return
        lane = self._lanes[batch.lane]
        results = [reply.result for reply in replies]
        # A request that fell back gets its result from another version: it counts as failed in the outcomes alone.
        ended = [reply.result for reply in replies if reply.fallback is None]
        self._limit.note(ended)
        lane.count(ended)
        done = [result for result in results if result.status is Status.SUCCEEDED]
        rows = sum([result.rows for result in done])
        queue_wait_s = np.array([result.queue_wait_s for result in done])
        accepted_s = np.array([result.accepted_s for result in done])
        # All of one run.
        inference_s, finished_s = (done[0].inference_s, done[0].finished_s) if done else (0.0, 0.0)
        if batch.run is not None:
            lane.note_run(fetched_s=batch.fetched_s, run=batch.run.times, stored_s=now_s, rows=rows)
        lane.queue_wait.observe_many(queue_wait_s)
        lane.total.observe_many(np.maximum(now_s - accepted_s, 0.0))
        inferred = batch.run.inferred if batch.run else ()
        classes, values = self._predictions.of(inferred)
        open_labels = self._open_labels.count(inferred)
        self._counts.add(classes, values, open_labels)
        self._recorder.observe_batch(
            statuses=Tally([result.status for result in results]),
            rows=rows,
            queue_wait_s=queue_wait_s,
            inference_s=np.full(len(done), inference_s),
            total_s=finished_s - accepted_s,
            labels=classes,
            open_labels=open_labels,
            values=values,
            failures=Tally([result.error_code or "unknown" for result in results if result.error_code is not None]),
        )
        if len(done) < len(results) or self._has_failed:
            self._recorder.observe_statuses([result.error_code for result in results])
            self._has_failed = len(done) < len(results)
        if self._tallies is not None and any(reply.rollout for reply in replies):
            self._tallies.add(batch, replies)
        self._log_batch(batch, replies, rows)
        if self._spans is not None:
            self._spans.add(batch, replies, stored_s=now_s)

    def _log_batch(self, batch: "Batch", replies: "Sequence[Reply]", rows: int) -> None:
        # At DEBUG: under low load a batch is one request, and a line costs as much as its inference.
        inference_s = batch.run.times.inference_s if batch.run else 0.0
        self._log.debug("batch_answered", lane=batch.lane, requests=len(replies), rows=rows, inference_s=inference_s)
        for reply in replies:
            if reply.dead is not None and reply.fallback is None:
                self._log.warning(
                    "request_failed",
                    lane=batch.lane,
                    request_id=reply.result.request_id,
                    trace_id=trace_id_of(reply.trace_parent),
                    code=reply.result.error_code,
                    attempt=reply.result.attempt,
                )

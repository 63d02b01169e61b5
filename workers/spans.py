"""The spans of a batch: one for each request with its stages, and one for the batch, linked with its requests."""

from typing import TYPE_CHECKING

from inferlane.results import Status
from inferlane.topics import work_topic
from inferlane.tracing import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.delivery import Answer
    from inferlane.tracing.spans import Span, Tracing
    from models.catalog import ModelVersion
    from workers.observing import Batch

_STORE = {"db.system.name": "redis", "db.operation.name": "put"}


class BatchSpans:
    """Makes the spans of one version's batches, after the fact: a batch is not slowed down before it is answered."""

    def __init__(self, tracing: "Tracing", version: "ModelVersion") -> None:
        self._tracing = tracing
        self._version = version
        self._attributes = {"inferlane.model": version.model, "inferlane.version": version.version}

    def add(self, batch: "Batch", answers: "Sequence[Answer]", *, stored_s: float) -> None:
        """Make the spans of delivered answers; `stored_s` is when they were durable."""
        kept = [(answer, span) for answer in answers if (span := self._begin(batch, answer)).is_kept]
        if not kept:
            return
        whole = self._tracing.begin(
            f"batch {self._version.model} {self._version.version}",
            kind=Kind.INTERNAL,
            at_s=batch.taken_s,
            links=[span for _, span in kept],
            attributes={
                **self._attributes,
                "messaging.batch.message_count": len(answers),
                "inferlane.rows": sum(answer.result.rows for answer in answers),
            },
        )
        for answer, span in kept:
            span.link(whole)
            self._stages(batch, answer, span, stored_s)
            span.end(
                at_s=stored_s,
                error=answer.result.error_code,
                attributes={"inferlane.status": answer.result.status.value, "inferlane.rows": answer.result.rows},
            )
        whole.end(at_s=stored_s)

    def _begin(self, batch: "Batch", answer: "Answer") -> "Span":
        topic = work_topic(self._version.model, self._version.version, batch.lane)
        return self._tracing.begin(
            f"process {topic}",
            kind=Kind.CONSUMER,
            parent=answer.trace_parent,
            at_s=batch.taken_s,
            attributes={
                **self._attributes,
                "messaging.system": "kafka",
                "messaging.destination.name": topic,
                "messaging.message.id": answer.result.request_id,
            },
        )

    def _stages(self, batch: "Batch", answer: "Answer", span: "Span", stored_s: float) -> None:
        stored_from_s = answer.result.finished_s
        if batch.run is not None and answer.result.status is Status.SUCCEEDED:
            infer = self._tracing.begin("infer", kind=Kind.INTERNAL, parent=span.traceparent, at_s=batch.run.started_s)
            infer.end(at_s=batch.run.ended_s)
            stored_from_s = batch.run.ended_s
        store = self._tracing.begin(
            "store result", kind=Kind.CLIENT, parent=span.traceparent, at_s=stored_from_s, attributes=_STORE
        )
        store.end(at_s=stored_s)

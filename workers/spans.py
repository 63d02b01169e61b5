"""The spans of a batch: one for each request with its stages, and one for the batch, linked with its requests."""

from typing import TYPE_CHECKING

from inferlane.contracts.naming import Lane
from inferlane.contracts.results import Status
from inferlane.runtime.tracing import message_attributes, version_attributes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.naming import Names
    from inferlane.runtime.delivery import Answer
    from inferlane.runtime.tracing.spans import Span, Tracing
    from models.catalog import ModelVersion
    from workers.observing import Batch

_STORE = {"db.system.name": "redis", "db.operation.name": "put"}


class BatchSpans:
    """Makes the spans of one version's batches, after the fact: a batch is not slowed down before it is answered."""

    def __init__(self, tracing: "Tracing", version: "ModelVersion", names: "Names") -> None:
        self._tracing = tracing
        self._name = f"batch {version.model} {version.version}"
        self._topics = {lane: names.work_topic(version.model, version.version, lane) for lane in Lane}
        self._attributes = version_attributes(version.model, version.version)

    def add(self, batch: "Batch", answers: "Sequence[Answer]", *, stored_s: float) -> None:
        """Make the spans of delivered answers; `stored_s` is when they were durable."""
        kept = [(answer, span) for answer in answers if (span := self._begin(batch, answer)).is_kept]
        if not kept:
            return
        whole = self._tracing.begin(
            self._name,
            kind="INTERNAL",
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
        topic = self._topics[batch.lane]
        return self._tracing.begin(
            f"process {topic}",
            kind="CONSUMER",
            parent=answer.trace_parent,
            at_s=batch.taken_s,
            attributes=message_attributes(topic, answer.result.request_id) | self._attributes,
        )

    def _stages(self, batch: "Batch", answer: "Answer", span: "Span", stored_s: float) -> None:
        if batch.run is not None and answer.result.status is Status.SUCCEEDED:
            infer = self._tracing.begin("infer", kind="INTERNAL", parent=span.traceparent, at_s=batch.run.started_s)
            infer.end(at_s=batch.run.ended_s)
        store = self._tracing.begin(
            "store result", kind="CLIENT", parent=span.traceparent, at_s=answer.result.finished_s, attributes=_STORE
        )
        store.end(at_s=stored_s)

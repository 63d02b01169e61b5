"""What the predict call counts: each label set is bound once, and none holds a name that the catalog does not know."""

from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from inferlane.contracts.record import TRACE_PARENT
from inferlane.contracts.results import CANCELLED, EXPIRED
from inferlane.errors import UnavailableError
from inferlane.runtime.metrics.api_metrics import ANSWERS, IDEMPOTENT, LATENCY
from inferlane.runtime.metrics.instruments import NONE, KnownPools, bounded, error_reasons
from inferlane.runtime.tracing import message_attributes

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.errors import InferlaneError
    from inferlane.runtime.tracing.spans import Span, Tracing
    from models.catalog import Catalog
    from producer_api.predict.call import Call
    from producer_api.predict.enqueuer import OnAcknowledged


class ResponseMetrics:
    """Counts answers and calls with a key. One event loop."""

    def __init__(self, catalog: "Catalog") -> None:
        self._pools = KnownPools((version.model, version.version) for version in catalog.all_versions())
        self._reasons = error_reasons(beside=(CANCELLED, EXPIRED))
        self._answers: dict[tuple[str | None, str | None, int, str | None], tuple[Counter, Histogram]] = {}
        self._first, self._replayed = IDEMPOTENT.labels("first"), IDEMPOTENT.labels("replayed")
        for model, version in self._pools:
            self._bind(model, version, 200, None)

    def count_keyed_call(self, *, is_replay: bool) -> None:
        """Count a call with a key."""
        (self._replayed if is_replay else self._first).inc()

    def observe_response(
        self, model: str | None, version: str | None, *, status: int, reason: str | None, took_s: float
    ) -> None:
        """Count an answer; model and version are None where none was reached, `reason` is an error code or None."""
        # What was seen before is found by one look-up; what was not is bounded first, and few are let in.
        held = self._answers.get((model, version, status, reason)) or self._bind(model, version, status, reason)
        held[0].inc()
        held[1].observe(took_s)

    def _bind(
        self, model: str | None, version: str | None, status: int, reason: str | None
    ) -> "tuple[Counter, Histogram]":
        labels = self._pools.labels(model, version)
        known = bounded(reason, self._reasons)
        children = ANSWERS.labels(*labels, status, known), LATENCY.labels(*labels)
        if labels == (model or NONE, version or NONE) and known == (reason or NONE):
            self._answers[model, version, status, reason] = children
        return children


def begin_call_span(tracing: "Tracing", path: str, *, parent: bytes | None) -> "Span":
    """Begin the span of a call; `parent` is the client's `traceparent`."""
    attributes = {"http.request.method": "POST", "http.route": path, "url.path": path}
    return tracing.begin(f"POST {path}", kind="SERVER", parent=parent, attributes=attributes)


def end_call_span(span: "Span", call: "Call | None", *, status: int, version: str | None, error: str | None) -> None:
    """End it with what was answered; `error` is the code of a call that failed, which is ours to mend from 500 on."""
    attributes: dict[str, str | int] = {"http.response.status_code": status}
    if call is not None:
        attributes |= {"messaging.message.id": call.request_id, "inferlane.model": call.model}
    if version is not None:
        attributes["inferlane.version"] = version
    span.end(error=error if status >= 500 else None, attributes=attributes)  # noqa: PLR2004 - the HTTP class


class RequestQueue(Protocol):
    """What takes records to the broker."""

    def enqueue(self, record: "OutRecord", on_acknowledged: "OnAcknowledged") -> int: ...

    def withdraw(self, ticket: int) -> bool: ...


class TracedEnqueuer:
    """An enqueuer with a span for each record, which ends with the broker's acknowledgement."""

    def __init__(self, enqueuer: RequestQueue, tracing: "Tracing") -> None:
        self._enqueuer = enqueuer
        self._tracing = tracing
        self._spans: dict[int, Span] = {}

    def enqueue(self, record: "OutRecord", on_acknowledged: "OnAcknowledged") -> int:
        """As `Enqueuer.enqueue`; the record's own `traceparent` becomes that of the span."""
        headers = dict(record.headers)
        span = self._tracing.begin(
            f"send {record.topic}",
            kind="PRODUCER",
            parent=headers.get(TRACE_PARENT),
            attributes=message_attributes(record.topic, headers["ce_id"].decode()),
        )

        def end(error: "InferlaneError | None") -> None:
            span.end(error=None if error is None else error.code)
            self._spans.pop(ticket, None)
            on_acknowledged(error)

        ticket = self._enqueuer.enqueue(replace(record, headers=span.put_into(record.headers)), end)
        self._spans[ticket] = span
        return ticket

    def withdraw(self, ticket: int) -> bool:
        """As `Enqueuer.withdraw`; the span of a record that was not sent ends here."""
        is_withdrawn = self._enqueuer.withdraw(ticket)
        if is_withdrawn:
            self._spans.pop(ticket).end(error=UnavailableError.code)
        return is_withdrawn

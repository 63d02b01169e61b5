"""Metrics and spans of predict calls. Label sets are bound once, and their values are bounded by the catalog."""

from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from inferlane.contracts.record import TRACE_PARENT
from inferlane.contracts.results import CANCELLED, EXPIRED
from inferlane.errors import UnavailableError, clipped
from inferlane.runtime.metrics.api_metrics import ANSWERS, IDEMPOTENT, LATENCY
from inferlane.runtime.metrics.instruments import NONE, KnownPools, bounded, error_reasons
from inferlane.runtime.tracing import message_attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Counter, Histogram

    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.errors import InferlaneError
    from inferlane.runtime.tracing.spans import Span, Tracing
    from models.catalog import Catalog
    from models.live_catalog import AnyCatalog
    from producer_api.predict.call import Call
    from producer_api.predict.enqueuer import OnAcknowledged


class ResponseMetrics:
    """Counts responses, and calls with an idempotency key. One event loop."""

    def __init__(self, catalog: "AnyCatalog") -> None:
        self._pools = KnownPools(())
        self._reasons = error_reasons(beside=(CANCELLED, EXPIRED))
        self._answers: dict[tuple[str | None, str | None, int, str | None], tuple[Counter, Histogram]] = {}
        self._first, self._replayed = IDEMPOTENT.labels("first"), IDEMPOTENT.labels("replayed")
        catalog.on_change(self._learn)

    def _learn(self, catalog: "Catalog") -> None:
        """Have a series of each version from its start on."""
        pools = [(version.model, version.version) for version in catalog.all_versions()]
        self._pools.add(pools)
        for model, version in pools:
            if (model, version, 200, None) not in self._answers:
                self._bind(model, version, 200, None)

    def count_keyed_call(self, *, is_replay: bool) -> None:
        """Count a call with an idempotency key."""
        (self._replayed if is_replay else self._first).inc()

    def observe_response(
        self, model: str | None, version: str | None, *, status: int, reason: str | None, took_s: float
    ) -> None:
        """Count a response; model and version are None if the call reached none, `reason` is an error code or None."""
        # A known label set costs one look-up; a new one is bounded first, so that few are kept.
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


def begin_call_span(tracing: "Tracing", route: str, path: str, *, parent: bytes | None) -> "Span":
    """Start the span of a call of `path`, named by its route; `parent` is the client's `traceparent`."""
    attributes = {"http.request.method": "POST", "http.route": route, "url.path": clipped(path)}
    return tracing.begin(f"POST {route}", kind="SERVER", parent=parent, attributes=attributes)


def begin_rpc_span(tracing: "Tracing", service: str, method: str, parent: bytes | None) -> "Span":
    """Start the span of a call over gRPC; `parent` is the client's `traceparent`."""
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    return tracing.begin(f"{service}/{method}", kind="SERVER", parent=parent, attributes=attributes)


def end_call_span(
    span: "Span",
    call: "Call | None",
    *,
    status: int,
    version: str | None,
    error: str | None,
    attributes: "Mapping[str, str | int] | None" = None,
) -> None:
    """End the span with the response; `error` is the code of a failed call, and marks the span from status 500 on.

    `attributes` say how the response went, where that was not by HTTP.
    """
    attributes = dict(attributes or {"http.response.status_code": status})
    if call is not None:
        attributes |= {"messaging.message.id": call.request_id, "inferlane.model": call.model}
    if version is not None:
        attributes["inferlane.version"] = version
    span.end(error=error if status >= 500 else None, attributes=attributes)  # noqa: PLR2004 - the HTTP class


class RequestQueue(Protocol):
    """A queue of records for the broker."""

    def enqueue(self, record: "OutRecord", on_acknowledged: "OnAcknowledged") -> int:
        """Queue a record and return the ticket for `withdraw`; `on_acknowledged` gets its outcome."""

    def withdraw(self, ticket: int) -> bool:
        """Remove a record that was not sent yet; return False if it was."""


class TracedEnqueuer:
    """An enqueuer that makes a span per record, from its queueing to the broker's acknowledgement."""

    def __init__(self, enqueuer: RequestQueue, tracing: "Tracing") -> None:
        self._enqueuer = enqueuer
        self._tracing = tracing
        self._spans: dict[int, Span] = {}

    def enqueue(self, record: "OutRecord", on_acknowledged: "OnAcknowledged") -> int:
        """Do `Enqueuer.enqueue`; the record gets the `traceparent` of the span."""
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
        """Do `Enqueuer.withdraw`; the span of a record that was not sent ends here."""
        is_withdrawn = self._enqueuer.withdraw(ticket)
        if is_withdrawn:
            self._spans.pop(ticket).end(error=UnavailableError.code)
        return is_withdrawn

"""The Prometheus children of one lane of the router, bound once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from inferlane.contracts.outcomes import OTHER
from inferlane.contracts.record import TRACE_PARENT
from inferlane.errors import (
    DecodeError,
    FatalRecordError,
    InferlaneError,
    PayloadTooLargeError,
    RecordRefusedError,
    TopicMissingError,
    UnavailableError,
    UnknownModelError,
    UnusableVersionError,
)
from inferlane.runtime.metrics import router as metrics
from inferlane.runtime.metrics.declaring import UNKNOWN, bounded
from inferlane.runtime.tracing import message_attributes, version_attributes
from router.routing import Route

if TYPE_CHECKING:
    from inferlane.contracts.naming import Lane
    from inferlane.contracts.outgoing import OutRecord
    from inferlane.runtime.delivery import Answer
    from inferlane.runtime.tracing.spans import Attributes, Span, Tracing
    from models.catalog import Catalog

_MS = 1e-3
_ELSEWHERE = Route(UNKNOWN, UNKNOWN)
# Why the router can refuse a record.
_REASONS = (
    *(
        error.code
        for error in (
            DecodeError,
            FatalRecordError,
            InferlaneError,
            PayloadTooLargeError,
            RecordRefusedError,
            TopicMissingError,
            UnavailableError,
            UnknownModelError,
            UnusableVersionError,
        )
    ),
    OTHER,
)


class LaneMetrics:
    """Every series is there from the start. Counts once a take and version."""

    def __init__(self, catalog: "Catalog", lane: "Lane") -> None:
        routes = [*(Route(version.model, version.version) for version in catalog.all_versions()), _ELSEWHERE]
        self._routed = {route: metrics.ROUTED.labels(route.model, route.version, lane) for route in routes}
        self._wait = {route: metrics.INGRESS_WAIT.labels(route.model, route.version, lane) for route in routes}
        self._refused = {reason: metrics.REFUSED.labels(lane, reason) for reason in _REASONS}
        self._forward = metrics.FORWARD.labels(lane)

    def note_routed(self, chosen: Route, stamps_ms: Sequence[int], *, taken_s: float) -> None:
        """Count records of one take that went to one version, by their timestamps."""
        if chosen not in self._routed:
            # Of another catalogue than ours: the names stay out of the labels.
            chosen = _ELSEWHERE
        self._routed[chosen].inc(len(stamps_ms))
        self._wait[chosen].observe_many(np.maximum(taken_s - np.array(stamps_ms, np.float64) * _MS, 0.0))

    def note_take(self, *, took_s: float) -> None:
        """Count a take that is done."""
        self._forward.observe(max(0.0, took_s))

    def note_refused(self, refused: "Sequence[Answer]") -> None:
        """Count what no version could serve, or no topic took."""
        for answer in refused:
            self._refused[bounded(answer.result.error_code, _REASONS)].inc()


class TakeSpans:
    """Spans that begin with a take and end together when it was forwarded."""

    def __init__(self, tracing: "Tracing", topic: str, *, taken_s: float) -> None:
        self._tracing = tracing
        self._topic = topic
        self._taken_s = taken_s
        self._open: list[tuple[Span, str | None]] = []

    def routed(self, chosen: "Route", out: "OutRecord") -> "OutRecord":
        """Begin the span of a routed record; what a worker does with the record that is returned is its child."""
        headers = dict(out.headers)
        span = self._begin(
            headers.get(TRACE_PARENT),
            message_attributes(self._topic, (headers.get("ce_id") or b"").decode(errors="replace"))
            | version_attributes(chosen.model, chosen.version),
        )
        self._open.append((span, None))
        return replace(out, headers=span.put_into(out.headers))

    def refused(self, answer: "Answer") -> None:
        """Begin the span of a record that no version can serve."""
        span = self._begin(answer.trace_parent, message_attributes(self._topic, answer.result.request_id))
        self._open.append((span, answer.result.error_code))

    def end(self) -> None:
        """End them all: the take is forwarded and its refusals are answered."""
        for span, error in self._open:
            span.end(error=error)

    def _begin(self, parent: bytes | None, attributes: "Attributes") -> "Span":
        return self._tracing.begin(
            f"route {self._topic}", kind="CONSUMER", parent=parent, at_s=self._taken_s, attributes=attributes
        )

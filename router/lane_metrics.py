"""The Prometheus children of one lane of the router, bound once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inferlane.contracts.outcomes import OTHER
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
from inferlane.runtime.metrics.labels import UNKNOWN, bounded
from router.routing import Route

if TYPE_CHECKING:
    from inferlane.contracts.naming import Lane
    from inferlane.runtime.delivery import Answer
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

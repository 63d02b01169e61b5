"""What the charts show: a point a look, for the last minutes. Pure."""

from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from dashboards.live.snapshot import ModelCard

KEPT_S = 600.0


class VersionPoint(msgspec.Struct, frozen=True, array_like=True):
    """One version at one moment: finished a second, waiting records, workers, total p95 in ms (None without any)."""

    rate_per_s: float
    lag_records: int
    workers: int
    p95_ms: float | None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Every version (`model/version`) at one moment, seconds since the epoch."""

    at_s: float
    router_lag_records: int
    versions: dict[str, VersionPoint]


def point_of(models: "tuple[ModelCard, ...]", *, router_lag_records: int, at_s: float) -> Point:
    """The point of a snapshot."""
    return Point(
        at_s=round(at_s, 2),
        router_lag_records=router_lag_records,
        versions={
            f"{model.name}/{card.version}": VersionPoint(
                round(card.queue.leaving_per_s or 0.0, 2),
                card.queue.lag_records,
                card.report.resources.workers if card.report else 0,
                card.report.latency_ms.total.p95 if card.report else None,
            )
            for model in models
            for card in model.versions
        },
    )


class History:
    """Points of the last `KEPT_S` seconds, oldest first."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque()

    def add(self, point: Point) -> None:
        """Add the newest point and forget those that are too old."""
        self._points.append(point)
        while self._points[0].at_s < point.at_s - KEPT_S:
            self._points.popleft()

    @property
    def points(self) -> tuple[Point, ...]:
        """All of them."""
        return tuple(self._points)

    def lag_before(self, ago_s: float) -> int | None:
        """The records that waited anywhere `ago_s` seconds before the newest point; None if nobody looked then."""
        if not self._points:
            return None
        then = [point for point in self._points if point.at_s <= self._points[-1].at_s - ago_s]
        return lag_of(then[-1]) if then else None


def lag_of(point: Point) -> int:
    """The records that waited before the router and the workers."""
    return point.router_lag_records + sum(version.lag_records for version in point.versions.values())

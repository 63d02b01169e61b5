"""How a metric is declared: once, with its kind, so that documents and dashboards can be checked against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from inferlane.runtime.metrics.batch_histogram import BatchHistogram

# A series with the start of each counter doubles what is scraped; Prometheus knows a reset without it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client left it untyped


class Kind(StrEnum):
    """What Prometheus calls the type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of ours: what a query may name."""

    name: str
    kind: Kind
    about: str
    labels: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """The names that its samples have."""
        if self.kind is Kind.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


Collector = Counter | Gauge | Histogram | BatchHistogram
_C = TypeVar("_C", Counter, Gauge, Histogram, BatchHistogram)
_declared: dict[Collector, Metric] = {}

# From a fifth of a millisecond to a minute, about three buckets a decade: what a queue in front of a model can take.
LATENCY_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
POOL = ("model", "version")
POOL_LANE = ("model", "version", "lane")


def counter(name: str, about: str, labels: Sequence[str] = ()) -> Counter:
    """Declare a counter; its name ends in `_total`."""
    return _declare(Counter(name, about, labels), name, Kind.COUNTER, about, labels)


def gauge(name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
    """Declare a gauge."""
    return _declare(Gauge(name, about, labels), name, Kind.GAUGE, about, labels)


def histogram(
    name: str, about: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = LATENCY_BUCKETS_S
) -> Histogram:
    """Declare a histogram of values that come one by one."""
    return _declare(Histogram(name, about, labels, buckets=buckets), name, Kind.HISTOGRAM, about, labels)


def batch_histogram(
    name: str, about: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = LATENCY_BUCKETS_S
) -> BatchHistogram:
    """Declare a histogram of values that come in batches."""
    return _declare(BatchHistogram(name, about, labels, buckets=buckets), name, Kind.HISTOGRAM, about, labels)


def declared() -> tuple[Metric, ...]:
    """Every metric of the modules that were imported, in the order of their declaration."""
    return tuple(_declared.values())


def metric_of(collector: Collector) -> Metric:
    """What was declared of a collector."""
    return _declared[collector]


def _declare(collector: _C, name: str, kind: Kind, about: str, labels: Sequence[str]) -> _C:
    _declared[collector] = Metric(name=name, kind=kind, about=about, labels=tuple(labels))
    return collector

"""Declare each metric once, with its kind, so that documents and dashboards can be checked against it."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import TypeVar

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client import Metric as Family
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector as Collecting
from prometheus_client.utils import floatToGoString

from inferlane import errors
from inferlane.contracts.held_values import HeldValues
from inferlane.contracts.outcomes import OTHER


class Observations:
    """The counts of one set of labels. One event loop; a scrape from it sees whole batches."""

    def __init__(self, bounds: np.ndarray) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._held = HeldValues(self._count)

    def observe_many(self, values: np.ndarray) -> None:
        """Add values of any numeric dtype, shape `(n,)`; values that are not finite are ignored.

        The array is kept for a while: do not change it.
        """
        self._held.hold(values)

    def cumulative(self) -> list[tuple[str, float]]:
        """Return each upper bound as Prometheus writes it, with how many values are not above it."""
        self._held.release()
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, np.cumsum(self._counts)), strict=True))

    @property
    def total(self) -> float:
        """The sum of all values."""
        self._held.release()
        return self._sum

    def _count(self, values: np.ndarray) -> None:
        values = values[np.isfinite(values)]
        # A value equal to a bound belongs below it: Prometheus' `le` is "less or equal".
        found = np.searchsorted(self._bounds, values, side="left")
        self._counts += np.bincount(found, minlength=len(self._counts))
        self._sum += float(values.sum())


class BatchHistogram(Collecting):
    """One histogram, with an `Observations` for each set of labels."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """`buckets` are the upper bounds, ascending and without infinity."""
        self._name = name
        self._about = about
        self._labels = tuple(labels)
        self._bounds = np.array(buckets, np.float64)
        self._children: dict[tuple[str, ...], Observations] = {}
        registry.register(self)

    def labels(self, *values: str) -> Observations:
        """Return the child of these label values; the first call creates it and exposes its zeros."""
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, not {len(values)} of them")
        return self._children.setdefault(tuple(map(str, values)), Observations(self._bounds))

    def collect(self) -> Iterable[Family]:
        """Return what a scrape shows."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for values, child in self._children.items():
            family.add_metric(values, child.cumulative(), child.total)
        yield family

    def describe(self) -> Iterable[Family]:
        """Return the family without samples: the registry refuses a second family of the name."""
        yield HistogramMetricFamily(self._name, self._about, labels=self._labels)


# `_created` series would double the size of a scrape; Prometheus detects a reset without them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client left it untyped


class Kind(StrEnum):
    """The type of a metric, as Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric of ours, as a query may name it."""

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
_declared: dict[Collector, MetricSpec] = {}

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


def forget_series(gauges: Iterable[Gauge], *labels: str) -> None:
    """Drop the series of what is gone: its last value would stand, and alert, for ever."""
    for gone in gauges:
        # It may never have been set.
        with suppress(KeyError):
            gone.remove(*labels)


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


def declared() -> tuple[MetricSpec, ...]:
    """Return every metric of the modules that were imported, in the order of their declaration."""
    return tuple(_declared.values())


def every_metric() -> tuple[MetricSpec, ...]:
    """Return every metric of every process, by name: for documents, dashboards and their tests."""
    for process in ("api", "router", "worker", "consumer", "webhook"):
        import_module(f"inferlane.runtime.metrics.{process}_metrics")
    return tuple(sorted(declared(), key=lambda metric: metric.name))


def metric_of(collector: Collector) -> MetricSpec:
    """Return what was declared of a collector."""
    return _declared[collector]


def _declare(collector: _C, name: str, kind: Kind, about: str, labels: Sequence[str]) -> _C:
    _declared[collector] = MetricSpec(name=name, kind=kind, about=about, labels=tuple(labels))
    return collector


NONE = "none"
"""Where a label has nothing to say: no error, no version chosen."""
UNKNOWN = "unknown"
"""A model or version that the catalog does not hold."""


# Classes beyond this number are counted together: each class costs a series for each version and worker.
MAX_CLASSES = 100


class KnownPools:
    """The (model, version) pairs that may become labels."""

    def __init__(self, pools: Iterable[tuple[str, str]]) -> None:
        self._pools: frozenset[tuple[str, str]] = frozenset()
        self._models: frozenset[str] = frozenset()
        self.add(pools)

    def add(self, pools: Iterable[tuple[str, str]]) -> None:
        """Let these become labels too."""
        self._pools |= frozenset(pools)
        self._models = frozenset(model for model, _ in self._pools)

    def labels(self, model: str | None, version: str | None) -> tuple[str, str]:
        """Return the labels of a model and version that somebody named; None is `NONE`, a strange name `UNKNOWN`."""
        if model not in self._models:
            return (UNKNOWN if model else NONE), (UNKNOWN if version else NONE)
        if version is None or (model, version) in self._pools:
            return model or NONE, version or NONE
        return model, UNKNOWN

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self._pools))


def error_reasons(*, beside: Collection[str] = ()) -> frozenset[str]:
    """Return every error code that the loaded code can give, and those named."""
    return frozenset({*_codes(errors.InferlaneError), *beside})


def bounded(value: str | None, known: Collection[str]) -> str:
    """`value` if it is known, `NONE` if it is None, else `OTHER`."""
    return NONE if value is None else value if value in known else OTHER


def class_labels(classes: Collection[str]) -> tuple[str, ...]:
    """Return the classes that have a series of their own, and `OTHER` for the rest and for indices that name none."""
    return (*list(classes)[:MAX_CLASSES], OTHER)


def _codes(kind: type[errors.InferlaneError]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)

"""A Prometheus histogram that takes a batch of values in one call: a call a value would cost more than the batch."""

from collections.abc import Iterable, Sequence

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Observations:
    """The counts of one set of labels. One event loop; a scrape from it sees whole batches."""

    def __init__(self, bounds: np.ndarray) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def observe_many(self, values: np.ndarray) -> None:
        """Add values of any numeric dtype, shape `(n,)`; what is not finite is left out."""
        values = values[np.isfinite(values)]
        if values.size == 0:
            return
        # A value equal to a bound belongs below it: Prometheus' `le` is "less or equal".
        found = np.searchsorted(self._bounds, values, side="left")
        self._counts += np.bincount(found, minlength=len(self._counts))
        self._sum += float(values.sum())

    def cumulative(self) -> list[tuple[str, float]]:
        """Each upper bound as Prometheus writes it, with how many values are not above it."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, np.cumsum(self._counts)), strict=True))

    @property
    def total(self) -> float:
        """The sum of all values."""
        return self._sum


class BatchHistogram(Collector):
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
        """The child of these label values; made, and so exposed with zeros, when it is first asked for."""
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, not {len(values)} of them")
        return self._children.setdefault(tuple(map(str, values)), Observations(self._bounds))

    def collect(self) -> Iterable[Metric]:
        """What a scrape shows."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for values, child in self._children.items():
            family.add_metric(values, child.cumulative(), child.total)
        yield family

    def describe(self) -> Iterable[Metric]:
        """The family without samples, for the registry to refuse a second one of the name."""
        yield HistogramMetricFamily(self._name, self._about, labels=self._labels)

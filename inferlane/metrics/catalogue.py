"""The whole catalogue: every metric of every process, for documents, dashboards and their tests."""

import inferlane.metrics.api
import inferlane.metrics.autoscaler
import inferlane.metrics.consuming
import inferlane.metrics.router
import inferlane.metrics.worker  # noqa: F401 - what they declare is what is wanted
from inferlane.metrics.declaring import Metric, declared


def metrics() -> tuple[Metric, ...]:
    """Every metric, by name."""
    return tuple(sorted(declared(), key=lambda metric: metric.name))

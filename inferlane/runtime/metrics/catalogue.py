"""The whole catalogue: every metric of every process, for documents, dashboards and their tests."""

import inferlane.runtime.metrics.api
import inferlane.runtime.metrics.autoscaler
import inferlane.runtime.metrics.consuming
import inferlane.runtime.metrics.router
import inferlane.runtime.metrics.worker  # noqa: F401 - what they declare is what is wanted
from inferlane.runtime.metrics.declaring import Metric, declared


def metrics() -> tuple[Metric, ...]:
    """Every metric, by name."""
    return tuple(sorted(declared(), key=lambda metric: metric.name))

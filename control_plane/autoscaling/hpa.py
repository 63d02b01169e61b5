"""The HPA: from the metrics of the triggers to a number of replicas, one step every sync period.

Source: `reconcileAutoscaler`, `computeReplicasForMetrics` and `stabilizeRecommendationWithBehaviors` of Kubernetes
1.35.0, pkg/controller/podautoscaler/horizontal.go, and `GetExternalPerPodMetricReplicas` of replica_calculator.go.
Every replica counts, ready or not, as it does there for the metrics that KEDA gives.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from control_plane.autoscaling.behavior import DEFAULT_TOLERANCE, Behavior
from control_plane.autoscaling.rates import RateLimits


@dataclass(frozen=True, slots=True)
class Metric:
    """The value of one trigger, both in records."""

    value: float
    threshold: float


def replicas_for(metric: Metric, current: int, behavior: Behavior) -> int:
    """Return what one metric asks for: no change within the tolerance, else value over threshold, rounded up."""
    ratio = metric.value / (metric.threshold * current)
    down = _tolerance(behavior.scale_down.tolerance)
    up = _tolerance(behavior.scale_up.tolerance)
    if 1.0 - down <= ratio <= 1.0 + up:
        return current
    return math.ceil(metric.value / metric.threshold)


def replicas_by_metrics(metrics: Sequence[Metric | None], current: int, behavior: Behavior) -> int | None:
    """Return the most that any metric asks for; None if the HPA does nothing.

    A metric that cannot be read is None. While one cannot, the pool may grow by the others and never shrinks.
    """
    asked = [replicas_for(metric, current, behavior) for metric in metrics if metric is not None]
    if not asked or (len(asked) < len(metrics) and max(asked) < current):
        return None
    return max(asked)


class HorizontalAutoscaler:
    """The HPA of one pool; `step` every sync period, with times of one clock that never goes back."""

    def __init__(self, behavior: Behavior, *, least: int, most: int) -> None:
        self._behavior = behavior
        self._least = least
        self._most = most
        self._rates = RateLimits(behavior)
        # What the metrics asked for, and when.
        self._asked: list[tuple[int, float]] = []

    def step(self, current: int, metrics: Sequence[Metric | None], *, now_s: float) -> int:
        """Return the replicas to have. A pool of none is left alone: waking it is KEDA's part."""
        if not self._asked:
            # The HPA starts with the size it finds, so that it does not shrink a pool before it has looked for a while.
            self._asked.append((current, now_s))
        if current == 0:
            return 0
        wanted = self._wanted(current, metrics, now_s=now_s)
        if wanted != current:
            self._rates.note(current, wanted, now_s=now_s)
        return wanted

    def _wanted(self, current: int, metrics: Sequence[Metric | None], *, now_s: float) -> int:
        if not self._least <= current <= self._most:
            return min(max(current, self._least), self._most)
        asked = replicas_by_metrics(metrics, current, self._behavior)
        if asked is None:
            return current
        stable = self.stabilized(current, asked, now_s=now_s)
        return self._rates.bound(current, stable, least=self._least, most=self._most, now_s=now_s)

    def stabilized(self, current: int, asked: int, *, now_s: float) -> int:
        """Return the size nearest to `current` between what was asked for least, and most, in the windows."""
        up_s = self._behavior.scale_up.stabilization_window_seconds or 0
        down_s = self._behavior.scale_down.stabilization_window_seconds or 0
        floor = min(_within(self._asked, up_s, now_s=now_s), default=asked)
        ceiling = max(_within(self._asked, down_s, now_s=now_s), default=asked)
        self._asked = [entry for entry in self._asked if now_s - entry[1] <= max(up_s, down_s)]
        self._asked.append((asked, now_s))
        return min(max(current, min(floor, asked)), max(ceiling, asked))


def _within(asked: Iterable[tuple[int, float]], window_s: float, *, now_s: float) -> Iterable[int]:
    return (replicas for replicas, at_s in asked if now_s - at_s < window_s)


def _tolerance(value: float | None) -> float:
    return DEFAULT_TOLERANCE if value is None else value

"""The HPA: from the metrics of the triggers to a number of replicas, one step every sync period.

Source: `reconcileAutoscaler`, `computeReplicasForMetrics` and `stabilizeRecommendationWithBehaviors` of Kubernetes
1.35.0, pkg/controller/podautoscaler/horizontal.go, and `GetExternalPerPodMetricReplicas` of replica_calculator.go.
Every replica counts, ready or not, as it does there for the metrics that KEDA gives.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

PeriodSeconds = Annotated[int, msgspec.Meta(ge=1, le=1_800)]
WindowSeconds = Annotated[int, msgspec.Meta(ge=0, le=3_600)]


class ScalingPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """At most `value` replicas, or percent of them, in any `period_seconds`."""

    type: Literal["Pods", "Percent"]
    value: Annotated[int, msgspec.Meta(ge=1)]
    period_seconds: PeriodSeconds


class ScalingRules(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The rules of one direction; unset fields take the defaults of that direction."""

    stabilization_window_seconds: WindowSeconds | None = None
    select_policy: Literal["Max", "Min", "Disabled"] | None = None
    policies: tuple[ScalingPolicy, ...] | None = None
    tolerance: Annotated[float, msgspec.Meta(ge=0)] | None = None

    def or_else(self, default: "ScalingRules") -> "ScalingRules":
        """Return the rules with unset fields taken from `default`."""
        unset = {name: getattr(default, name) for name in self.__struct_fields__ if getattr(self, name) is None}
        return msgspec.structs.replace(self, **unset)


class Behavior(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Both directions; `complete` fills in the defaults."""

    scale_up: ScalingRules = ScalingRules()
    scale_down: ScalingRules = ScalingRules()

    def complete(self) -> "Behavior":
        """Return the behavior with nothing left unset."""
        return Behavior(scale_up=self.scale_up.or_else(DEFAULT_UP), scale_down=self.scale_down.or_else(DEFAULT_DOWN))


@dataclass(frozen=True, slots=True)
class Change:
    """Replicas that were added, or removed, at one time; both count as positive."""

    replicas: int
    at_s: float


@dataclass(slots=True, eq=False)
class RateLimits:
    """Remember the changes of one pool and limit the next one."""

    behavior: Behavior
    _added: list[Change] = field(default_factory=list)
    _removed: list[Change] = field(default_factory=list)

    def note(self, before: int, after: int, *, now_s: float) -> None:
        """Remember a change, in the place of one that is older than every policy of its direction if there is one.

        Only one is replaced, as in the controller: the policies of the other direction may look back farther.
        """
        grew = after > before
        rules = self.behavior.scale_up if grew else self.behavior.scale_down
        longest_s = max((policy.period_seconds for policy in rules.policies or ()), default=0)
        changes = self._added if grew else self._removed
        outdated = [number for number, change in enumerate(changes) if now_s - change.at_s > longest_s]
        change = Change(abs(after - before), now_s)
        if outdated:
            changes[outdated[-1]] = change
        else:
            changes.append(change)

    def bound(self, current: int, desired: int, *, least: int, most: int, now_s: float) -> int:
        """Return `desired`, limited by the policies and the bounds."""
        if desired > current:
            limit = self._limit(current, self.behavior.scale_up, grows=True, now_s=now_s)
            return min(desired, most, max(current, limit))
        if desired < current:
            limit = self._limit(current, self.behavior.scale_down, grows=False, now_s=now_s)
            return max(desired, least, min(current, limit))
        return desired

    def _limit(self, current: int, rules: ScalingRules, *, grows: bool, now_s: float) -> int:
        if rules.select_policy == "Disabled":
            return current
        limits = [self._limit_of(policy, current, grows=grows, now_s=now_s) for policy in rules.policies or ()]
        # Max is the largest change, Min the smallest, in either direction.
        farthest = max if grows == (rules.select_policy != "Min") else min
        return farthest(limits, default=current)

    def _limit_of(self, policy: ScalingPolicy, current: int, *, grows: bool, now_s: float) -> int:
        added = _rates_within(self._added, policy.period_seconds, now_s=now_s)
        removed = _rates_within(self._removed, policy.period_seconds, now_s=now_s)
        at_start = current - added + removed
        if policy.type == "Pods":
            return at_start + (policy.value if grows else -policy.value)
        if grows:
            # Rounded up, or a small pool would never grow.
            return math.ceil(at_start * (1 + policy.value / 100))
        return int(at_start * (1 - policy.value / 100))


def _rates_within(changes: Iterable[Change], period_s: float, *, now_s: float) -> int:
    return sum(change.replicas for change in changes if now_s - change.at_s < period_s)


# The API server's limits; a value out of them never reaches the controller.

DEFAULT_DOWN_WINDOW_S = 300
DEFAULT_TOLERANCE = 0.1


# `defaultHPAScaleUpRules` and `defaultHPAScaleDownRules` of Kubernetes 1.35.0, pkg/apis/autoscaling/v2/defaults.go; the
# window and the tolerance are the defaults of the controller manager's flags.
DEFAULT_UP = ScalingRules(
    stabilization_window_seconds=0,
    select_policy="Max",
    policies=(
        ScalingPolicy(type="Pods", value=4, period_seconds=15),
        ScalingPolicy(type="Percent", value=100, period_seconds=15),
    ),
    tolerance=DEFAULT_TOLERANCE,
)
DEFAULT_DOWN = ScalingRules(
    stabilization_window_seconds=DEFAULT_DOWN_WINDOW_S,
    select_policy="Max",
    policies=(ScalingPolicy(type="Percent", value=100, period_seconds=15),),
    tolerance=DEFAULT_TOLERANCE,
)


@dataclass(frozen=True, slots=True)
class MetricValue:
    """The value of one trigger, both in records."""

    value: float
    threshold: float


def replicas_for(metric: MetricValue, current: int, behavior: Behavior) -> int:
    """Return the replicas for one metric: no change within the tolerance, else value over threshold, rounded up."""
    ratio = metric.value / (metric.threshold * current)
    down = _tolerance(behavior.scale_down.tolerance)
    up = _tolerance(behavior.scale_up.tolerance)
    if 1.0 - down <= ratio <= 1.0 + up:
        return current
    return math.ceil(metric.value / metric.threshold)


def replicas_by_metrics(metrics: Sequence[MetricValue | None], current: int, behavior: Behavior) -> int | None:
    """Return the largest number of replicas over all metrics; None if the HPA does nothing.

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

    def step(self, current: int, metrics: Sequence[MetricValue | None], *, now_s: float) -> int:
        """Return the desired replicas. A pool of zero stays so: activation is KEDA's part."""
        if not self._asked:
            # The HPA starts with the size it finds, so that it does not shrink a pool before it has looked for a while.
            self._asked.append((current, now_s))
        if current == 0:
            return 0
        desired = self._desired(current, metrics, now_s=now_s)
        if desired != current:
            self._rates.note(current, desired, now_s=now_s)
        return desired

    def _desired(self, current: int, metrics: Sequence[MetricValue | None], *, now_s: float) -> int:
        if not self._least <= current <= self._most:
            return min(max(current, self._least), self._most)
        asked = replicas_by_metrics(metrics, current, self._behavior)
        if asked is None:
            return current
        stable = self.stabilized(current, asked, now_s=now_s)
        return self._rates.bound(current, stable, least=self._least, most=self._most, now_s=now_s)

    def stabilized(self, current: int, asked: int, *, now_s: float) -> int:
        """Return the size nearest to `current` between the lowest and highest recommendation in the windows."""
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

"""How far a pool may grow or shrink now, after what it did in the last periods.

Source: `convertDesiredReplicasWithBehaviorRate`, `calculateScaleUpLimitWithScalingRules`,
`calculateScaleDownLimitWithBehaviors` and `storeScaleEvent` of Kubernetes 1.35.0,
pkg/controller/podautoscaler/horizontal.go.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from control_plane.autoscaling.behavior import Behavior, ScalingPolicy, ScalingRules


@dataclass(frozen=True, slots=True)
class Change:
    """Replicas that were added, or removed, at one time; both count as positive."""

    replicas: int
    at_s: float


@dataclass(slots=True, eq=False)
class RateLimits:
    """Remembers the changes of one pool and bounds the next one."""

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
        """Return `desired` as far as the policies and the bounds let it be reached now."""
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
        added = _within(self._added, policy.period_seconds, now_s=now_s)
        removed = _within(self._removed, policy.period_seconds, now_s=now_s)
        at_start = current - added + removed
        if policy.type == "Pods":
            return at_start + (policy.value if grows else -policy.value)
        if grows:
            # Rounded up, or a small pool would never grow.
            return math.ceil(at_start * (1 + policy.value / 100))
        return int(at_start * (1 - policy.value / 100))


def _within(changes: Iterable[Change], period_s: float, *, now_s: float) -> int:
    return sum(change.replicas for change in changes if now_s - change.at_s < period_s)

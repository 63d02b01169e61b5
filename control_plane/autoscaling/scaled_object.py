"""A ScaledObject: everything that decides how many replicas a pool has."""

from typing import Annotated, Literal

import msgspec

from control_plane.autoscaling.behavior import Behavior
from control_plane.autoscaling.kafka_trigger import KafkaTrigger

Count = Annotated[int, msgspec.Meta(ge=0)]
FallbackBehavior = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class Fallback(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How many replicas to have while a trigger cannot be read."""

    failure_threshold: Count
    replicas: Count
    behavior: FallbackBehavior = "static"

    def replicas_for(self, current: int) -> int:
        """Return the replicas to have instead of `current` (`doFallback` of KEDA 2.20.0, pkg/fallback/fallback.go)."""
        match self.behavior:
            case "static":
                return self.replicas
            case "currentReplicas":
                return current
            case "currentReplicasIfHigher":
                return max(current, self.replicas)
            case "currentReplicasIfLower":
                return min(current, self.replicas)


class ScaledObject(msgspec.Struct, frozen=True, kw_only=True):
    """One pool's numbers: replicas, periods in seconds, one trigger a lane. The defaults are KEDA's.

    `behavior` holds every rule of the HPA, none unset. Where a ScaledObject has no behavior, KEDA leaves the HPA with
    its older rules; those that Kubernetes documents as the default of `behavior` stand for them here.
    """

    name: str
    target: str
    triggers: tuple[KafkaTrigger, ...]
    min_replicas: int = 0
    max_replicas: int = 100
    idle_replicas: int | None = None
    polling_interval_s: int = 30
    cooldown_s: int = 300
    initial_cooldown_s: int = 0
    behavior: Behavior = Behavior().complete()
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that KEDA refuses (`CheckReplicaCountBoundsAreValid`)."""
        if not self.triggers:
            raise ValueError("no trigger; name a topic of the pool")
        if self.hpa_min_replicas > self.max_replicas:
            raise ValueError(f"minReplicaCount {self.min_replicas} is more than maxReplicaCount {self.max_replicas}")
        if self.idle_replicas is not None and self.idle_replicas >= self.min_replicas:
            raise ValueError(
                f"idleReplicaCount {self.idle_replicas} must be less than minReplicaCount {self.min_replicas}"
            )

    @property
    def hpa_min_replicas(self) -> int:
        """What the HPA gets as its minimum: an HPA never goes to zero, KEDA does."""
        return max(1, self.min_replicas)

    def capped(self, max_replicas: int) -> "ScaledObject":
        """Return the same with at most that many replicas; a smaller maximum of its own stays."""
        most = min(self.max_replicas, max_replicas)
        least = min(self.min_replicas, most)
        idle = self.idle_replicas if self.idle_replicas is not None and self.idle_replicas < least else None
        return msgspec.structs.replace(self, max_replicas=most, min_replicas=least, idle_replicas=idle)

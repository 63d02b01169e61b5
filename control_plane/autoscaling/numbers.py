"""The numbers that a pool is scaled by unless somebody has better ones; k8s/ holds them as manifests."""

from collections.abc import Mapping

from control_plane.autoscaling.behavior import Behavior, ScalingPolicy, ScalingRules
from control_plane.autoscaling.kafka_trigger import KafkaTrigger
from control_plane.autoscaling.scaled_object import Fallback, ScaledObject

# A poll costs the broker two small calls a topic; it is also how long the first record of a sleeping pool waits at most
# before anything happens.
POLLING_INTERVAL_S = 5
# Too short starts a process anew for every second client, too long pays for a pool that nobody uses.
COOLDOWN_S = 300

# Out at once and by doubling, for a burst does not wait; each step stops the whole group for a moment, so few and large
# ones. In slowly: a pool that shrinks by a quarter a minute has time to see the next burst.
BEHAVIOR = Behavior(
    scale_up=ScalingRules(
        stabilization_window_seconds=0,
        select_policy="Max",
        policies=(
            ScalingPolicy(type="Percent", value=100, period_seconds=15),
            ScalingPolicy(type="Pods", value=4, period_seconds=15),
        ),
    ),
    scale_down=ScalingRules(
        stabilization_window_seconds=300,
        select_policy="Max",
        policies=(
            ScalingPolicy(type="Pods", value=1, period_seconds=60),
            ScalingPolicy(type="Percent", value=25, period_seconds=60),
        ),
    ),
).complete()

FALLBACK = Fallback(failure_threshold=3, replicas=1, behavior="currentReplicasIfHigher")


def scaled_object(
    *, name: str, target: str, group: str, thresholds: Mapping[str, int], max_replicas: int
) -> ScaledObject:
    """Return the ScaledObject of one pool. `thresholds`: each lane's topic with its lagThreshold.

    `max_replicas` must be the number of partitions of each topic: more would idle, and KEDA asks for one more (#4483).
    """
    return ScaledObject(
        name=name,
        target=target,
        triggers=tuple(
            KafkaTrigger(
                consumer_group=group,
                topic=topic,
                lag_threshold=threshold,
                offset_reset_policy="earliest",
                version="2.1.0",
            )
            for topic, threshold in thresholds.items()
        ),
        max_replicas=max_replicas,
        polling_interval_s=POLLING_INTERVAL_S,
        cooldown_s=COOLDOWN_S,
        behavior=BEHAVIOR,
        fallback=FALLBACK,
    )

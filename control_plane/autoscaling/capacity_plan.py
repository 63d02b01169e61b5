"""Plan the capacity of a whole deployment for a load: partitions, replicas, groups and brokers.

Closed formulas over the peak, where `simulation` follows one pool through time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control_plane.autoscaling.hpa import DEFAULT_TOLERANCE, Behavior, ScalingPolicy, ScalingRules
from control_plane.autoscaling.scaled_object import Fallback, KafkaTrigger, ScaledObject
from inferlane.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPace:
    """How fast one worker of a version is. Take `row_s` from `inferlane models verify` or `GET /v1/metrics/{version}`.

    `max_batch_rows`, `batches_in_flight` and `commit_interval_s` are the worker's settings of the same names.
    """

    row_s: float
    max_batch_rows: int
    batch_overhead_s: float = 0.0
    rows_per_record: float = 1.0
    batches_in_flight: int = 2
    commit_interval_s: float = 0.2

    def __post_init__(self) -> None:
        """Reject impossible values.

        Raises:
            ConfigurationError: a time or a count is not positive.
        """
        if self.row_s <= 0 or self.batch_overhead_s < 0:
            raise ConfigurationError(
                f"a row takes {self.row_s:g} s and a batch {self.batch_overhead_s:g} s more; give more than 0 s a row"
            )
        if self.max_batch_rows < 1 or self.rows_per_record <= 0:
            raise ConfigurationError(
                f"{self.max_batch_rows} rows a batch and {self.rows_per_record:g} a record; give at least 1 a batch"
            )

    @property
    def batch_records(self) -> float:
        """Records of a full batch; a record that is larger than a batch takes several."""
        return self.max_batch_rows / self.rows_per_record

    @property
    def batch_s(self) -> float:
        """Seconds of a full batch."""
        return self.batch_overhead_s + self.max_batch_rows * self.row_s

    @property
    def records_per_s(self) -> float:
        """Records a second of a worker that always finds full batches."""
        return self.batch_records / self.batch_s

    @property
    def records_in_hand(self) -> int:
        """The lag of a busy worker that keeps up."""
        return math.ceil(self.batches_in_flight * self.batch_records + self.commit_interval_s * self.records_per_s)

    @property
    def shortest_wait_s(self) -> float:
        """The smallest target wait that `lag_threshold_records` accepts, in seconds."""
        return self.batch_s + (self.records_in_hand + 1) * (1 + DEFAULT_TOLERANCE) / self.records_per_s


def lag_threshold_records(pace: WorkerPace, *, target_wait_s: float) -> int:
    """Return the `lagThreshold` that clears any lag within the target wait once the pool has the desired size.

    Raises:
        ConfigurationError: the wait is so short that a worker's own batches would count as lag.
    """
    threshold = math.floor(pace.records_per_s * (target_wait_s - pace.batch_s) / (1 + DEFAULT_TOLERANCE))
    if threshold < pace.records_in_hand:
        raise ConfigurationError(
            f"a wait of {target_wait_s:g} s cannot be kept: one worker has {pace.records_in_hand} records in hand and "
            f"takes {pace.batch_s:.3g} s for a batch. Ask for {pace.shortest_wait_s:.3g} s or more, or lower "
            "INFERLANE_MAX_BATCH_ROWS or INFERLANE_BATCHES_IN_FLIGHT."
        )
    return threshold


# Besides the two lanes: results, outcomes, feedback, dead letters, splits, catalogue, rollouts; all but the results
# have one partition.
_LANES = 2
_SINGLE_PARTITION_TOPICS = 6
# The router's data path, its outcomes and its feedback; every version has a group of its own.
_SHARED_GROUPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The capacity of one process or broker. Measure yours: these are inputs of the plan, not promises.

    `busy_share`: how much of it is planned with; the rest is for bursts and for the loss of one.
    """

    api_per_s: float
    router_per_s: float
    broker_partitions: int
    busy_share: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The load: records per second at the peak, spread over versions by `shares` (they sum to 1)."""

    rate_per_s: float
    shares: Sequence[float]
    record_bytes: int
    work_partitions: int
    ingress_partitions: int
    replication_factor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    """The result, without the topics and groups of webhooks.

    `short_versions`: the number of versions that need more workers than they have partitions.
    """

    workers: int
    busiest_workers: int
    short_versions: int
    api_replicas: int
    router_replicas: int
    topics: int
    partitions: int
    consumer_groups: int
    brokers: int
    produced_mb_per_s: float


def zipf_shares(versions: int, skew: float) -> tuple[float, ...]:
    """Return the versions' shares of the traffic, largest first: even for a skew of 0, by 1 / rank for 1."""
    weights = [rank**-skew for rank in range(1, versions + 1)]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def plan_capacity(demand: Demand, pace: WorkerPace, capacity: Capacity) -> CapacityPlan:
    """Return the capacity that the demand needs at its peak."""

    def processes(rate_per_s: float, each_per_s: float) -> int:
        return max(1, math.ceil(rate_per_s / (each_per_s * capacity.busy_share)))

    workers = [processes(demand.rate_per_s * share, pace.records_per_s) for share in demand.shares]
    versions = len(workers)
    ingress = (_LANES + 1) * demand.ingress_partitions
    partitions = versions * _LANES * demand.work_partitions + ingress + _SINGLE_PARTITION_TOPICS
    return CapacityPlan(
        workers=sum(workers),
        busiest_workers=max(workers),
        short_versions=sum(count > demand.work_partitions for count in workers),
        api_replicas=processes(demand.rate_per_s, capacity.api_per_s),
        router_replicas=processes(demand.rate_per_s, capacity.router_per_s),
        topics=versions * _LANES + _LANES + 1 + _SINGLE_PARTITION_TOPICS,
        partitions=partitions,
        consumer_groups=versions + _SHARED_GROUPS,
        brokers=max(
            demand.replication_factor, math.ceil(partitions * demand.replication_factor / capacity.broker_partitions)
        ),
        # Each record is written twice, to the ingress and to its version's topic.
        produced_mb_per_s=2 * demand.rate_per_s * demand.record_bytes / 1e6,
    )


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


def make_scaled_object(
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

"""What a whole deployment needs for a load: partitions, replicas, groups, past what one machine could try.

Closed formulas over the peak, where `simulation` follows one pool through time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.autoscaling.threshold import WorkerPace

# Besides the two lanes: results, outcomes, dead letters, splits; outcomes, dead letters and splits have one partition.
_LANES = 2
_SINGLE_PARTITION_TOPICS = 3
# The router's data path and its outcomes; every version has one of its own.
_SHARED_GROUPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one process or broker bears. Measure yours: these are settings of the plan, not promises.

    `busy_share`: how much of it is planned with; the rest is for bursts and for the loss of one.
    """

    api_per_s: float
    router_per_s: float
    broker_partitions: int
    busy_share: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked for: records a second at the peak, spread over versions by `shares` (they sum to 1)."""

    rate_per_s: float
    shares: Sequence[float]
    record_bytes: int
    work_partitions: int
    ingress_partitions: int
    replication_factor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What it takes. `short_versions`: how many need more workers than their topics have partitions."""

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
    return tuple(weight / sum(weights) for weight in weights)


def plan(demand: Demand, pace: WorkerPace, capacity: Capacity) -> Plan:
    """Return what the demand takes at its peak."""

    def processes(rate_per_s: float, each_per_s: float) -> int:
        return max(1, math.ceil(rate_per_s / (each_per_s * capacity.busy_share)))

    workers = [processes(demand.rate_per_s * share, pace.records_per_s) for share in demand.shares]
    versions = len(workers)
    ingress = (_LANES + 1) * demand.ingress_partitions
    partitions = versions * _LANES * demand.work_partitions + ingress + _SINGLE_PARTITION_TOPICS
    return Plan(
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

"""The metadata of a trigger of the type `kafka`, as KEDA reads it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec


class KafkaTrigger(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What one lane of a pool is scaled by; the defaults are KEDA's.

    Source: `kafkaMetadata` in KEDA 2.20.0, pkg/scalers/kafka_scaler.go. What concerns the connection is accepted and
    not used: whoever reads offsets here has a connection of their own. Refused, although KEDA takes it: a trigger with
    no topic, which counts every topic of the group, `partitionLimitation`, and `excludePersistentLag`, which takes a
    long inference for a record that nobody can read.
    """

    consumer_group: str
    topic: str
    lag_threshold: int = 10
    activation_lag_threshold: int = 0
    offset_reset_policy: Literal["latest", "earliest"] = "latest"
    allow_idle_consumers: bool = False
    scale_to_zero_on_invalid_offset: bool = False
    limit_to_partitions_with_lag: bool = False
    ensure_even_distribution_of_partitions: bool = False
    exclude_persistent_lag: bool = False
    partition_limitation: str = ""

    bootstrap_servers: str = ""
    bootstrap_servers_from_env: str = ""
    version: str = ""
    tls: Literal["enable", "disable"] = "disable"
    unsafe_ssl: bool = False
    sasl: Literal["none", "plaintext", "scram_sha256", "scram_sha512", "oauthbearer", "gssapi"] = "none"
    sasl_token_provider: str = ""
    aws_region: str = ""

    def __post_init__(self) -> None:
        """Refuse what KEDA's `Validate` refuses, and what we do not model."""
        if self.lag_threshold <= 0:
            raise ValueError(f"lagThreshold is {self.lag_threshold}; it must be 1 or more")
        if self.activation_lag_threshold < 0:
            raise ValueError(f"activationLagThreshold is {self.activation_lag_threshold}; it must be 0 or more")
        if not self.topic:
            raise ValueError("topic is empty; without it every topic of the group would count")
        if self.limit_to_partitions_with_lag and self.allow_idle_consumers:
            raise ValueError("allowIdleConsumers and limitToPartitionsWithLag exclude each other; set one of them")
        if self.limit_to_partitions_with_lag and self.ensure_even_distribution_of_partitions:
            raise ValueError(
                "limitToPartitionsWithLag and ensureEvenDistributionOfPartitions exclude each other; set one of them"
            )
        if self.exclude_persistent_lag:
            raise ValueError("excludePersistentLag takes slow inference for lag that nobody can work off; leave it out")
        if self.partition_limitation.strip():
            raise ValueError("partitionLimitation would leave partitions without workers; leave it out")


@dataclass(frozen=True, slots=True)
class PartitionOffsets:
    """One partition as the broker tells of it.

    `end`: the offset after its last record. `committed`: the group's offset, None if it never committed one. KEDA knows
    no beginning: for a group that never committed, records that retention removed count as lag too.
    """

    end: int
    committed: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a trigger: `metric_records` is what the HPA divides by the threshold."""

    metric_records: int
    is_active: bool


def partition_lag_records(offsets: PartitionOffsets, trigger: KafkaTrigger) -> int:
    """Return the lag of one partition; it is negative where the topic was made anew under an old group."""
    if offsets.committed is not None:
        return offsets.end - offsets.committed
    if trigger.scale_to_zero_on_invalid_offset:
        return 0
    # With `latest` the lag of a group that never committed cannot be known: 1 keeps a consumer that will commit.
    return 1 if trigger.offset_reset_policy == "latest" else offsets.end


def read_trigger(partitions: Iterable[PartitionOffsets], trigger: KafkaTrigger) -> Reading:
    """Return what KEDA reports of the topic.

    The metric is cut so that the HPA asks for no more replicas than there are partitions, but with an integer division:
    between P and P + 1 thresholds it is not, and the HPA asks for P + 1 (#4483). So `maxReplicaCount` must be P.
    """
    lags = [partition_lag_records(offsets, trigger) for offsets in partitions]
    total = metric = sum(lags)
    limits_replicas = (
        not trigger.allow_idle_consumers
        or trigger.limit_to_partitions_with_lag
        or trigger.ensure_even_distribution_of_partitions
    )
    if limits_replicas:
        most = len(lags)
        if trigger.ensure_even_distribution_of_partitions:
            metric = balanced_replicas(total, partitions=len(lags), threshold=trigger.lag_threshold)
            metric *= trigger.lag_threshold
        if trigger.limit_to_partitions_with_lag:
            most = sum(lag > 0 for lag in lags)
        if metric // trigger.lag_threshold > most:
            metric = most * trigger.lag_threshold
    return Reading(metric_records=metric, is_active=total > trigger.activation_lag_threshold)


def balanced_replicas(total_records: int, *, partitions: int, threshold: int) -> int:
    """Return the fewest replicas for the lag among those that get equal shares of the partitions.

    Source: `getNextFactorThatBalancesConsumersToTopicPartitions`, held to KEDA's `TestGetNextFactor`.
    """
    shares = (count for count in range(1, partitions + 1) if partitions % count == 0)
    return next((count for count in shares if count * threshold >= total_records), partitions)

"""The metadata of a trigger of the type `kafka`, as KEDA reads it."""

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

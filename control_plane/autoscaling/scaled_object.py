"""A ScaledObject: everything that decides how many replicas a pool has."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import yaml

from control_plane.autoscaling.hpa import Behavior
from inferlane.errors import ConfigurationError

Count = Annotated[int, msgspec.Meta(ge=0)]
FallbackBehavior = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class Fallback(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The replicas to use while a trigger cannot be read."""

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
        """Reject what KEDA's `Validate` rejects, and what is not modelled here."""
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


class ScaledObject(msgspec.Struct, frozen=True, kw_only=True):
    """What one pool is scaled by: replicas, periods in seconds, one trigger a lane. The defaults are KEDA's.

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
        """Reject bounds that KEDA rejects (`CheckReplicaCountBoundsAreValid`)."""
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
        """The minimum of the HPA, which never scales to zero; KEDA does."""
        return max(1, self.min_replicas)

    def capped(self, max_replicas: int) -> "ScaledObject":
        """Return a copy with at most that many replicas; a smaller maximum is kept."""
        most = min(self.max_replicas, max_replicas)
        least = min(self.min_replicas, most)
        idle = self.idle_replicas if self.idle_replicas is not None and self.idle_replicas < least else None
        return msgspec.structs.replace(self, max_replicas=most, min_replicas=least, idle_replicas=idle)


_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _KedaStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The custom resource as written; `ScaledObject` keeps the fields that affect scaling.

    Fields of KEDA 2.20.0, apis/keda/v1alpha1/scaledobject_types.go. The formula of `scalingModifiers` and metric types
    other than `AverageValue` are not modelled and so not known here.
    """


class _ScaleTarget(_KedaStruct, frozen=True, kw_only=True):
    name: str
    api_version: str = "apps/v1"
    kind: str = "Deployment"
    env_source_container_name: str = ""


class _TriggerSpec(_KedaStruct, frozen=True, kw_only=True):
    type: Literal["kafka"]
    # KEDA takes strings alone: a number that is not quoted is refused by the API server.
    metadata: dict[str, str]
    name: str = ""
    metric_type: Literal["AverageValue"] = "AverageValue"
    use_cached_metrics: bool = False
    authentication_ref: dict[str, str] | None = None


class _HpaConfig(_KedaStruct, frozen=True, kw_only=True):
    name: str = ""
    behavior: Behavior = Behavior()


class _ScalingModifiers(_KedaStruct, frozen=True, kw_only=True):
    """Refused where a formula is set; KEDA writes an empty one into every object that it has seen."""

    formula: Literal[""] = ""
    target: str = ""
    activation_target: str = ""
    metric_type: Literal["AverageValue", "Value"] = "AverageValue"


class _Advanced(_KedaStruct, frozen=True, kw_only=True):
    scaling_modifiers: _ScalingModifiers = _ScalingModifiers()
    restore_to_original_replica_count: bool = False
    horizontal_pod_autoscaler_config: _HpaConfig = _HpaConfig()


class _ScaledObjectSpec(_KedaStruct, frozen=True, kw_only=True):
    scale_target_ref: _ScaleTarget
    triggers: tuple[_TriggerSpec, ...]
    polling_interval: _Positive = 30
    cooldown_period: Count = 300
    initial_cooldown_period: Count = 0
    idle_replica_count: Count | None = None
    min_replica_count: Count = 0
    max_replica_count: _Positive = 100
    advanced: _Advanced = _Advanced()
    fallback: Fallback | None = None


class _ObjectMeta(msgspec.Struct, frozen=True):
    name: str
    annotations: dict[str, str] = {}


class _ScaledObjectDocument(_KedaStruct, frozen=True, kw_only=True):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: _ObjectMeta
    spec: _ScaledObjectSpec
    # What the cluster says of the object when it gives it back; nothing in it decides.
    status: dict[str, Any] = {}


def read_scaled_objects(text: str, *, source: str) -> tuple[ScaledObject, ...]:
    """Return the ScaledObjects of a manifest in their order; documents of other kinds are left out.

    Also what `kubectl get scaledobject -o yaml` or `-o json` gives back, with what the cluster wrote into it.

    `source` names the text in messages.

    Raises:
        ConfigurationError: it is no YAML, a ScaledObject has a key or a value that KEDA does not know, or asks for
            something that is not modelled here; the message names the object, the place and the fault.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source} is no YAML: {error}. Mend the file.") from error
    return tuple(
        _scaled_object(document, source=source)
        for document in _unlisted(documents)
        if document.get("kind") == "ScaledObject"
    )


def _unlisted(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the objects, with Lists unpacked: `kubectl get -o yaml` returns several objects as one List."""
    for document in documents:
        items = document.get("items")
        if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
            yield from (item for item in items if isinstance(item, dict))
        else:
            yield document


def _scaled_object(document: dict[str, Any], *, source: str) -> ScaledObject:
    try:
        return _kept(msgspec.convert(document, _ScaledObjectDocument))
    except (msgspec.ValidationError, ValueError) as error:
        metadata = document.get("metadata")
        name = metadata.get("name", "?") if isinstance(metadata, dict) else "?"
        raise ConfigurationError(f"{source}: ScaledObject {name}: {error}. Mend the file.") from error


def _kept(document: _ScaledObjectDocument) -> ScaledObject:
    if paused := [name for name in document.metadata.annotations if name.startswith("autoscaling.keda.sh/")]:
        raise ValueError(f"annotation {paused[0]} is not modelled; remove it")
    spec = document.spec
    return ScaledObject(
        name=document.metadata.name,
        target=spec.scale_target_ref.name,
        triggers=tuple(
            # KEDA makes numbers and booleans of the strings.
            msgspec.convert(trigger.metadata, KafkaTrigger, strict=False)
            for trigger in spec.triggers
        ),
        min_replicas=spec.min_replica_count,
        max_replicas=spec.max_replica_count,
        idle_replicas=spec.idle_replica_count,
        polling_interval_s=spec.polling_interval,
        cooldown_s=spec.cooldown_period,
        initial_cooldown_s=spec.initial_cooldown_period,
        behavior=spec.advanced.horizontal_pod_autoscaler_config.behavior.complete(),
        fallback=spec.fallback,
    )

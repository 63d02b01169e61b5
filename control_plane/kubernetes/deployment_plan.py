"""The plan of a deployment: settings for a cluster, one pool per version, and the lag threshold of each lane."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from control_plane.autoscaling.capacity_plan import WorkerPace, lag_threshold_records
from inferlane.contracts.naming import Lane
from inferlane.errors import ConfigurationError
from inferlane.runtime.redis.url import parse_store_url

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from inferlane.runtime.settings import StoreSettings

Document = dict[str, Any]
"""One Kubernetes object, as its YAML would be read."""

PART_OF = "inferlane"
API = "inferlane-api"
STORE = "inferlane-valkey"
# The operator calls the Service of this cluster inferlane-kafka-bootstrap.
KAFKA = "inferlane"
KAFKA_NODES = "nodes"
# Strimzi makes the first; for another broker it is made by hand.
KAFKA_CA_SECRET = f"{KAFKA}-cluster-ca-cert"
OTHER_KAFKA_CA_SECRET = "inferlane-kafka-ca"  # noqa: S105 - the name of a secret, not one
KAFKA_FOLDER = "/etc/inferlane/kafka"
# The certificate that clients of a broker of your own show; made by hand.
KAFKA_CLIENT_SECRET = "inferlane-kafka-client"  # noqa: S105 - as above
KAFKA_CLIENT_FOLDER = "/etc/inferlane/kafka-client"
KAFKA_AUTHENTICATION = "inferlane-kafka"
STORE_SECRET = "inferlane-store"  # noqa: S105 - as above
STORE_TLS_SECRET = "inferlane-store-tls"  # noqa: S105 - as above
# For a store elsewhere it is made by hand.
OTHER_STORE_CA_SECRET = "inferlane-store-ca"  # noqa: S105 - as above
STORE_USER = "inferlane"
STORE_FOLDER = "/etc/inferlane/store"
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.crt", "tls.crt", "tls.key"
KEYS_SECRET = "inferlane-api-keys"  # noqa: S105 - the name of a secret, not one
KEYS_FOLDER = "/etc/inferlane/keys"
KEYS_FILE = "keys.toml"

# Where the operators are by the instructions of their own projects.
KEDA_NAMESPACE = "keda"
STRIMZI_NAMESPACE = "strimzi"
MONITORING_NAMESPACE = "monitoring"

# One for one: different names stay different.
_NOT_IN_NAMES = re.compile(r"[^a-z0-9.-]")
# RFC 1035 labels, and the values of labels, which the name of a pool is too.
_MAX_CHARS, _DIGEST_CHARS = 63, 10


def object_name(text: str) -> str:
    """Return the text as a Kubernetes name: lower case letters, digits, dots and dashes."""
    return _NOT_IN_NAMES.sub("-", text.lower()).strip("-.")


def service_name(model: str, version: str, *, default_model: str) -> str:
    """Return the name of a pool's Deployment; for the default model it is the version alone."""
    kept = version if model == default_model else f"{model}-{version}"
    return within_label(object_name(f"inference-service-{kept}").replace(".", "-"), of=f"{model}/{version}")


def pool_instance(model: str, version: str) -> str:
    """Return the name of a pool in labels and dashboards, the same as on the local stack."""
    return within_label(f"worker-{model}-{version}", of=f"{model}/{version}")


def within_label(name: str, *, of: str) -> str:
    """Return the name if it fits into a label, else its start and a digest of `of`, so that names stay distinct."""
    if len(name) <= _MAX_CHARS:
        return name
    digest = hashlib.sha256(of.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: _MAX_CHARS - _DIGEST_CHARS - 1].rstrip('-._')}-{digest}"


def labels(component: str, instance: str) -> dict[str, str]:
    """Return the labels that select the pods of one deployment; `instance` is the pool's name on every stack."""
    return {
        "app.kubernetes.io/name": PART_OF,
        "app.kubernetes.io/part-of": PART_OF,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/instance": instance,
    }


def kafka_labels() -> dict[str, str]:
    """Return the labels that Strimzi sets on our cluster's pods and requires on its topics and users."""
    return {"strimzi.io/cluster": KAFKA}


def document(api_version: str, kind: str, metadata: Document, **rest: Any) -> Document:
    """Return an object with its parts in the usual order."""
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


API_PORT, GRPC_PORT, OPS_PORT, STORE_PORT, KAFKA_PORT = 8000, 8001, 8100, 6379, 9093
# OTLP over HTTP, where a collector listens by OpenTelemetry's own default.
TRACES_PORT = 4318
# To plan with; a forwarding loop of this kind did ten times that on two cores, which a busy machine does not have.
ROUTER_RECORDS_PER_S = 5_000.0
_ROUTER_BATCH_RECORDS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """The target wait of a record in each lane, in seconds, once its pool has the desired size."""

    requests_s: float = 5.0
    bulk_s: float = 60.0

    def of(self, lane: Lane) -> float:
        """The wait of one lane."""
        return self.requests_s if lane is Lane.REQUESTS else self.bulk_s


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """What a worker on a GPU gets: so many of a resource, an image that can use it, and the nodes that have it."""

    image: str
    count: int = 1
    # Of NVIDIA's device plugin; a part of a GPU is called nvidia.com/mig-1g.10gb and the like.
    resource: str = "nvidia.com/gpu"
    node_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """The workers of one version, or of several in each process; `thresholds` are the `lagThreshold` of each topic."""

    versions: tuple[tuple[str, str], ...]
    name: str
    # Its name in labels and dashboards.
    instance: str
    thresholds: Mapping[str, int]
    # None: on the CPU.
    gpu: GpuPlan | None = None

    @property
    def is_shared(self) -> bool:
        """Whether one process serves several versions."""
        return len(self.versions) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """Everything that the manifests are made from."""

    settings: "Settings"
    namespace: str
    image: str
    pools: tuple[PoolPlan, ...]
    router_thresholds: Mapping[str, int]
    # Each service logs in to the broker with a user of its own, whose password is in a Secret of its name.
    has_users: bool
    # Whose topics and groups the services may use: the versions of the pools, and those that are rendered elsewhere.
    granted: tuple[tuple[str, str], ...]
    has_api_tls: bool = False  # of both ports; health and metrics are on the ops port then

    @property
    def runs_kafka(self) -> bool:
        """Whether the broker is Strimzi's, in this namespace; otherwise it is external."""
        return self.settings.kafka.bootstrap_servers == kafka_servers(self.namespace)

    @property
    def runs_store(self) -> bool:
        """Whether the store is our Valkey; otherwise it is external."""
        return is_own_store(self.settings.store, self.namespace)

    @property
    def has_store_tls(self) -> bool:
        """Whether our Valkey accepts TLS connections only."""
        return self.runs_store and self.settings.store.redis_url.startswith("rediss:")

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """The `(model, version)` pairs that have a pool."""
        return tuple(version for pool in self.pools for version in pool.versions)


def make_plan(  # noqa: PLR0913 - what a plan is made of
    settings: "Settings",
    versions: Iterable[tuple[str, str]],
    *,
    namespace: str,
    image: str,
    pace: WorkerPace,
    waits: Waits,
    user_per_service: bool = False,
    gpus: Mapping[tuple[str, str], GpuPlan] = MappingProxyType({}),
    shared: Sequence[Sequence[tuple[str, str]]] = (),
    others: Iterable[tuple[str, str]] = (),
) -> DeploymentPlan:
    """Plan a pool for each `(model, version)`; those of `gpus` get one.

    Each group of `shared` is one pool, whose workers serve all its versions. `others` are versions with a pool
    already: services keep their rights for them, since an object of a user holds all of its rights.

    `user_per_service`: with a broker that is not Strimzi's too, each service logs in with a user of its own.

    Raises:
        ConfigurationError: a wait is shorter than the pace can keep, or two pools would have one name.
    """
    router = WorkerPace(
        row_s=1 / ROUTER_RECORDS_PER_S,
        max_batch_rows=_ROUTER_BATCH_RECORDS,
        commit_interval_s=settings.kafka.commit_interval_s,
    )
    own = [version for version in versions if not any(version in group for group in shared)]

    def thresholds(served: Iterable[tuple[str, str]]) -> Mapping[str, int]:
        return {
            settings.stack.names.work_topic(*version, lane): lag_threshold_records(pace, target_wait_s=waits.of(lane))
            for version in served
            for lane in Lane
        }

    def own_pool(version: tuple[str, str]) -> PoolPlan:
        return PoolPlan(
            versions=(version,),
            name=service_name(*version, default_model=settings.stack.default_model),
            instance=pool_instance(*version),
            thresholds=thresholds([version]),
            gpu=gpus.get(version),
        )

    def shared_pool(number: int, group: Sequence[tuple[str, str]]) -> PoolPlan:
        return PoolPlan(
            versions=tuple(group),
            name=f"inference-service-shared-{number}",
            instance=f"worker-shared-{number}",
            thresholds=thresholds(group),
        )

    return DeploymentPlan(
        settings=settings,
        has_users=user_per_service or settings.kafka.bootstrap_servers == kafka_servers(namespace),
        namespace=namespace,
        image=image,
        pools=_named_apart([*map(own_pool, own), *map(shared_pool, count(1), shared)]),
        granted=tuple(dict.fromkeys([*own, *chain.from_iterable(shared), *others])),
        router_thresholds={
            topic: lag_threshold_records(router, target_wait_s=waits.of(lane))
            for lane, topic in settings.stack.names.ingress.items()
        },
    )


def kafka_servers(namespace: str) -> str:
    """Return the address of Strimzi's brokers; with the namespace, for KEDA connects from another one."""
    return f"{KAFKA}-kafka-bootstrap.{namespace}.svc:{KAFKA_PORT}"


def store_host(namespace: str) -> str:
    """Return the host name of our Valkey."""
    return f"{STORE}.{namespace}.svc"


def is_own_store(store: "StoreSettings", namespace: str) -> bool:
    """Whether the URL is that of our Valkey."""
    return store_host(namespace) in {host for host, _ in parse_store_url(store.redis_url).hosts}


def _named_apart(pools: Iterable[PoolPlan]) -> tuple[PoolPlan, ...]:
    """Return the pools if their names are distinct: of two that share a file, the last would win.

    Raises:
        ConfigurationError: two do not.
    """
    named: dict[str, PoolPlan] = {}
    for pool in pools:
        other = named.setdefault(pool.name, pool)
        if other is not pool:
            one, two = (", ".join(map("/".join, each.versions)) for each in (other, pool))
            raise ConfigurationError(
                f"the pools of {one} and {two} would both be called {pool.name} on the cluster. Rename one of the "
                "versions, or render them for two namespaces."
            )
    return tuple(named.values())

"""What is to be rendered: settings as on a cluster, one pool a version, and what each lane may have waiting."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferlane.config import load_settings
from inferlane.kubernetes.names import KAFKA, KEYS_FILE, KEYS_FOLDER, STORE, service_name
from inferlane.naming import Lane
from inferlane.scaling.threshold import WorkerPace, lag_threshold_records

if TYPE_CHECKING:
    from inferlane.config import Settings

API_PORT, OPS_PORT, STORE_PORT, KAFKA_PORT, KAFKA_TLS_PORT = 8000, 8100, 6379, 9092, 9093
# OTLP over HTTP, where a collector listens by OpenTelemetry's own default.
TRACES_PORT = 4318
# To plan with; a forwarding loop of this kind did ten times that on two cores, which a busy machine does not have.
ROUTER_RECORDS_PER_S = 5_000.0
_ROUTER_BATCH_RECORDS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long a record may wait in each lane, in seconds, once its pool has the size it asks for."""

    requests_s: float = 5.0
    bulk_s: float = 60.0

    def of(self, lane: Lane) -> float:
        """The wait of one lane."""
        return self.requests_s if lane is Lane.REQUESTS else self.bulk_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """One version's workers. `thresholds`: the `lagThreshold` of each lane's topic, in records."""

    model: str
    version: str
    name: str
    thresholds: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that the files are made of."""

    settings: "Settings"
    namespace: str
    image: str
    pools: tuple[PoolPlan, ...]
    router_thresholds: Mapping[str, int]

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """The `(model, version)` pairs that have a pool."""
        return tuple((pool.model, pool.version) for pool in self.pools)


def cluster_settings(chosen: "Settings", *, namespace: str) -> "Settings":
    """Complete what the user chose by what is so on a cluster.

    The broker's name is whole, with its namespace: KEDA connects to it from another one.
    """
    values: dict[str, object] = {
        "kafka_bootstrap_servers": f"{KAFKA}-kafka-bootstrap.{namespace}.svc:{KAFKA_PORT}",
        "redis_url": f"redis://{STORE}.{namespace}.svc:{STORE_PORT}/0",
        "api_host": "0.0.0.0",
        "api_port": API_PORT,
        "api_keys_file": f"{KEYS_FOLDER}/{KEYS_FILE}",
        "ops_host": "0.0.0.0",
        "ops_port": OPS_PORT,
        "log_format": "json",
        # Said, not left to the default: the pods' grace periods are made of it.
        "drain_deadline_s": chosen.drain_deadline_s,
    }
    return load_settings(**(values | chosen.model_dump(include=chosen.model_fields_set)))


def make_plan(
    settings: "Settings",
    versions: Iterable[tuple[str, str]],
    *,
    namespace: str,
    image: str,
    pace: WorkerPace,
    waits: Waits,
) -> Plan:
    """Plan a pool for each `(model, version)`.

    Raises:
        ConfigurationError: a wait is shorter than the pace can keep.
    """
    router = WorkerPace(
        row_s=1 / ROUTER_RECORDS_PER_S,
        max_batch_rows=_ROUTER_BATCH_RECORDS,
        commit_interval_s=settings.commit_interval_s,
    )
    return Plan(
        settings=settings,
        namespace=namespace,
        image=image,
        pools=tuple(
            PoolPlan(
                model=model,
                version=version,
                name=service_name(model, version, default_model=settings.default_model),
                thresholds={
                    settings.names.work_topic(model, version, lane): lag_threshold_records(
                        pace, target_wait_s=waits.of(lane)
                    )
                    for lane in Lane
                },
            )
            for model, version in versions
        ),
        router_thresholds={
            topic: lag_threshold_records(router, target_wait_s=waits.of(lane))
            for lane, topic in settings.names.ingress.items()
        },
    )

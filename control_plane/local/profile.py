"""The settings of the local stack, layered under what the user set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from control_plane.autoscaling.pool import HPA_SYNC_S
from inferlane.runtime.config import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from inferlane.runtime.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleOptions:
    """Where the ScaledObjects are, the most workers a pool may have here, and how often the HPA would step."""

    scaled_objects: "Path"
    max_workers: int
    hpa_sync_s: float = HPA_SYNC_S


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What the flags of `inferlane up` say."""

    workers: int = 1
    api_port: int = 8000
    broker_port: int = 9092
    store_port: int = 6379
    first_ops_port: int = 8100
    store_maxmemory_mib: int = 512
    # 0 is no dashboard.
    dashboard_port: int = 3000
    # None: every pool keeps its size.
    autoscale: AutoscaleOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The settings of every process of the stack, and the environment that gives them to it."""

    settings: "Settings"
    environment: Mapping[str, str]
    has_broker: bool
    has_store: bool


def stack_profile(chosen: "Settings", options: StackOptions) -> Profile:
    """Complete what the user chose by what suits one machine.

    A broker or store that the user named is used; the embedded one is started only where none was named.
    """
    named = chosen.model_fields_set
    has_broker = "kafka_bootstrap_servers" not in named
    has_store = "redis_url" not in named
    values: dict[str, object] = {"api_port": options.api_port, "dashboard_port": options.dashboard_port}
    if has_broker:
        values |= {
            "kafka_bootstrap_servers": f"127.0.0.1:{options.broker_port}",
            # Tansu does not wake a waiting fetch, has no InitProducerId, and spends CPU on each partition that it is
            # asked for.
            "fetch_max_wait_ms": 2,
            "kafka_idempotence": False,
            "ingress_partitions": 1,
            "work_partitions": 2,
        }
    if has_store:
        values["redis_url"] = f"redis://127.0.0.1:{options.store_port}/0"
    settings = load_settings(**(values | chosen.model_dump(include=named)))
    return Profile(
        settings=settings,
        environment=settings.environment(),
        has_broker=has_broker,
        has_store=has_store,
    )


def attached_settings(chosen: "Settings", environment: Mapping[str, str]) -> "Settings":
    """Complete what the user chose by the environment of a stack that runs, to reach its parts from outside."""
    values = {name.removeprefix("INFERLANE_").lower(): value for name, value in environment.items()}
    return load_settings(**(values | chosen.model_dump(include=chosen.model_fields_set)))

"""Settings of every process: the one place that reads the environment.

A profile (embedded, compose, Kubernetes) is a set of these values, never a branch in the code.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from inferlane.errors import ConfigurationError

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """All settings, each from `INFERLANE_<NAME>`; the defaults suit one machine."""

    model_config = SettingsConfigDict(env_prefix="INFERLANE_", frozen=True, extra="ignore")

    # Where things are.
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    redis_url: str = "redis://127.0.0.1:6379/0"
    models_dir: Path = Path(".inferlane/models")
    state_dir: Path = Path(".inferlane")
    default_model: str = "iris"

    # Where we listen. The ops port serves /metrics, /livez and /readyz of a process that has no API.
    api_host: str = "127.0.0.1"
    api_port: Port = 8000
    ops_host: str = "127.0.0.1"
    ops_port: Port = 0

    # Who may call the API: whoever has a key of the file (`inferlane keys`). With no file the API is open, and starts
    # on loopback alone unless `api_auth` is `off`. `api_key` is what our own commands send as clients.
    api_keys_file: Path | None = None
    api_auth: Literal["auto", "off"] = "auto"
    api_key: SecretStr | None = None
    # What the head of a call (request line and headers) may be, and how long a client may take to send head and body:
    # too short cuts off clients on slow lines, too long lets idle connections pile up.
    max_head_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024
    max_headers: Annotated[int, Field(ge=8)] = 100
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 60.0

    # The request: how long a client waits, how long an answer is worth computing, how large it may be.
    default_wait_s: Seconds = 10.0
    max_wait_s: Seconds = 60.0
    default_deadline_s: Seconds = 300.0
    max_deadline_s: Seconds = 86_400.0
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    max_result_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    # How many requests one API process holds open at once. Too small refuses bursts that the queue could
    # take; too large spends memory on clients that will time out anyway.
    max_waiting_requests: Annotated[int, Field(ge=1)] = 10_000
    result_ttl_s: Seconds = 3_600.0

    # Kafka. Few partitions embedded, as many as maxReplicaCount on a cluster.
    ingress_partitions: Annotated[int, Field(ge=1)] = 12
    work_partitions: Annotated[int, Field(ge=1)] = 12
    replication_factor: Annotated[int, Field(ge=1)] = 1
    kafka_idempotence: bool = True
    # How long the broker holds a fetch that found nothing. Apache Kafka wakes a waiting fetch at once, so long
    # is cheap; Tansu does not, so there this is a floor of the latency.
    fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 500
    # The same for a lane that has been empty for a while: longer spares an idle machine, and is what the first request
    # after a pause may wait at each of its two hops.
    idle_fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 100
    session_timeout_ms: Annotated[int, Field(ge=6_000)] = 30_000
    # Offsets are committed at most this often: too often costs the broker a write a batch, too seldom
    # redelivers more after a crash.
    commit_interval_s: Seconds = 0.2
    kafka_request_timeout_ms: Annotated[int, Field(ge=100)] = 10_000

    # Workers.
    max_batch_rows: Annotated[int, Field(ge=1)] = 256
    intra_op_num_threads: Annotated[int, Field(ge=1)] = 1
    batches_in_flight: Annotated[int, Field(ge=1)] = 2
    # Of the time that both lanes have work, the share that bulk gets.
    bulk_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    # The share of the results of waiting clients that is copied to `inferlane.results`.
    results_sample: Annotated[float, Field(ge=0, le=1)] = 0.0
    drain_deadline_s: Seconds = 20.0

    # Outcome windows behind `GET /v1/metrics/{version}`.
    outcome_interval_s: Seconds = 1.0
    outcome_slot_s: Annotated[int, Field(ge=1)] = 5
    outcome_window_s: Annotated[int, Field(ge=10)] = 3_600

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment, with `overrides` on top.

    Raises:
        ConfigurationError: a value is out of its range; the message names the variable, the value and the limit.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks each value
    except ValidationError as error:
        faults = "; ".join(
            f"INFERLANE_{'_'.join(str(part) for part in fault['loc']).upper()}={fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigurationError(f"{faults}. Change or unset the variable.") from error

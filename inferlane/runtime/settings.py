"""The settings by part: each part serves one kind of component, and a constructor takes only its part.

`inferlane.runtime.config.Settings` has all parts, read from the environment.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from inferlane.contracts.callback_addresses import Network, parse_networks
from inferlane.contracts.naming import DEFAULT_PREFIX, PREFIX_RULE, Names, is_model_name

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


def _seconds_by_name(text: str) -> dict[str, int]:
    """Read `name=seconds,…`.

    Raises:
        ValueError: a part has another form.
    """
    found: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, seconds = part.partition("=")
        if not is_model_name(name) or not seconds.isascii() or not seconds.isdigit() or not int(seconds):
            raise ValueError(f"{part[:80]!r} is not MODEL=SECONDS, as in iris=60")
        found[name] = int(seconds)
    return found


class StackSettings(BaseSettings):
    """Settings of every process of a stack: the prefix of names, the folders of files, logs, and the stop."""

    model_config = SettingsConfigDict(env_prefix="INFERLANE_", frozen=True, extra="ignore")

    # The first part of every topic, consumer group, store key and channel. Two stacks on one broker or one
    # store need two prefixes. A changed prefix is a new stack: nothing under the old prefix is read again.
    prefix: Annotated[str, Field(pattern=PREFIX_RULE)] = DEFAULT_PREFIX
    models_dir: Path = Path(".inferlane/models")
    state_dir: Path = Path(".inferlane")
    default_model: str = "iris"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"
    # How long a process that is told to stop may drain.
    drain_deadline_s: Seconds = 20.0

    @property
    def names(self) -> Names:
        """The names of this stack on the broker and in the store."""
        return Names(self.prefix)


class PortSettings(StackSettings):
    """The HTTP edge of every port: the address of the ops port, and the limits of one connection."""

    # The ops port serves /metrics, /livez and /readyz of a process, without TLS. The API has them on its own port, and
    # opens an ops port only where one is set.
    ops_host: str = "127.0.0.1"
    ops_port: Port = 0
    # More host names, separated by commas, that calls to a loopback port without keys may use besides localhost.
    allowed_hosts: str = ""
    # The size of request line and headers, and the time that a client has to send head and body. Too short cuts off
    # clients on slow lines, too long lets idle connections pile up.
    max_head_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024
    max_headers: Annotated[int, Field(ge=8)] = 100
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 60.0
    # How long a client may leave an answer unread before its connection is closed. Too short cuts off slow lines in the
    # middle of a large answer, too long lets unread answers pile up.
    write_timeout_s: Seconds = 60.0
    # Open connections of one process; never more than three quarters of its limit of open files.
    max_connections: Annotated[int, Field(ge=1)] = 12_000

    @property
    def known_hosts(self) -> frozenset[str]:
        """The names of `allowed_hosts`, in lower case."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())


class ApiSettings(PortSettings):
    """The API: where it listens, who may call it, how long a call waits and how much is admitted."""

    api_host: str = "127.0.0.1"
    api_port: Port = 8000
    # API processes of `inferlane up` that share the port; 0: 1 up to 5 cores, then one for 3 cores. Too few leave cores
    # unused while the API's own work sets the pace, too many cost memory (80 MB each) and make smaller batches. On
    # Kubernetes replicas do this.
    api_processes: Annotated[int, Field(ge=0, le=64)] = 0
    # `name=ops URL` of each process that shares the port, separated by commas; set by `inferlane up`. `/metrics` then
    # has those of all.
    api_peers: str = ""
    # The certificate chain and private key of the HTTP port, in PEM; read again when they change. Without them the port
    # has no TLS.
    api_ssl_certfile: Path | None = None
    api_ssl_keyfile: Path | None = None
    # The port of the Open Inference Protocol over gRPC, at the same address; 0: none. Needs the extra `grpc`.
    grpc_port: Port = 0
    # The certificate chain and private key of the gRPC port, in PEM; read again when they change. Without them the port
    # has no TLS.
    grpc_ssl_certfile: Path | None = None
    grpc_ssl_keyfile: Path | None = None
    # The file with the API keys (`inferlane keys`). Without one the API is open, and starts on loopback alone unless
    # `api_auth` is `off`.
    api_keys_file: Path | None = None
    api_auth: Literal["auto", "off"] = "auto"
    # How long a call waits for its result.
    default_wait_s: Seconds = 10.0
    max_wait_s: Seconds = 60.0
    # How long past its wait a call may take to learn whether broker and store have its request. Too short reports
    # unknown where a busy broker would have accepted, too long keeps clients waiting during an outage.
    answer_grace_s: Seconds = 1.5
    # Whether a predict call without an Idempotency-Key is cancelled when its client closes the connection: nobody else
    # knows its id. Off, it is computed as any other.
    cancel_on_disconnect: bool = False
    # The default deadline: after this time a result is no longer worth computing.
    default_deadline_s: Seconds = 300.0
    max_deadline_s: Seconds = 86_400.0
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    # Calls that one API process holds open. Too small refuses bursts that the queue could take, too large spends memory
    # on clients that will time out anyway.
    max_waiting_requests: Annotated[int, Field(ge=1)] = 10_000
    # Bytes in one API process: bodies of calls under way, and records that the broker has not acknowledged.
    max_pending_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    # The backlog of one version past which new requests are refused whatever their deadline.
    max_backlog_records: Annotated[int, Field(ge=1)] = 200_000
    # How often the backlog of each version is read while requests come. Too often costs the broker calls for
    # each version, too seldom judges a burst by numbers from before it.
    backlog_poll_s: Seconds = 0.5
    # The share of the store's `maxmemory` past which no new request is admitted: those under way still need room.
    store_full_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    # The models whose answers are kept and given again, each with the seconds that an answer may be old, as in
    # iris=60,fraud=5. Only for models that always answer the same rows the same.
    response_cache: str = ""
    # Answers that all replicas keep together, and the largest that is kept: their product bounds the memory.
    response_cache_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 4_096
    response_cache_entry_bytes: Annotated[int, Field(ge=64)] = 16 * 1024

    @property
    def cached_models(self) -> dict[str, int]:
        """The seconds for which an answer is kept, by model."""
        return _seconds_by_name(self.response_cache)

    @field_validator("response_cache")
    @classmethod
    def _names_models(cls, value: str) -> str:
        _seconds_by_name(value)
        return value


class DashboardSettings(PortSettings):
    """The live dashboard, and how our own commands reach the API."""

    dashboard_host: str = "127.0.0.1"
    dashboard_port: Port = 3000
    # The API's address for clients of ours; empty means `api_host` and `api_port`.
    api_url: str = ""
    # The authorities that our own commands trust where the API has TLS, in PEM; default: those of the system, and on
    # the machine of the API the certificate of `api_ssl_certfile`.
    api_ssl_cafile: Path | None = None
    # The key that our own commands send.
    api_key: SecretStr | None = None


class KafkaSettings(StackSettings):
    """Kafka: how to connect, the topics, and how records are fetched and committed."""

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    # docs/connections.md; `check_broker_access` says which of these go together.
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_idempotence: bool = True
    kafka_request_timeout_ms: Annotated[int, Field(ge=100)] = 10_000
    # Few partitions on the embedded broker, as many as maxReplicaCount on a cluster.
    ingress_partitions: Annotated[int, Field(ge=1)] = 12
    work_partitions: Annotated[int, Field(ge=1)] = 12
    replication_factor: Annotated[int, Field(ge=1)] = 1
    # The largest body of a call, and of a record.
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    # The largest result; topics and store must hold it.
    max_result_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    # How long the broker holds a fetch that found nothing. Apache Kafka wakes a waiting fetch at once, so long
    # is cheap; Tansu does not, so there this is a floor of the latency.
    fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 500
    # The wait that `fetch_max_wait_ms` grows to while a lane stays empty, by 10 ms a second. Longer spares an idle
    # machine; it is what the first request after a pause may wait at each of its two hops.
    idle_fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 250
    # Where consumers on this machine listen for signals of producers beside them that a topic has new records; None: no
    # signals. Only for a broker that does not wake a waiting fetch, and only where all processes share the folder.
    arrivals_dir: Path | None = None
    # How long a group waits for a silent member before it gives its partitions to others: after a kill of a router or
    # worker clients wait this long. Heartbeats run on the event loop several times within it, and none of our code
    # blocks the loop for a second. Too long makes every crash an outage, too short treats a pause as a crash.
    session_timeout_ms: Annotated[int, Field(ge=6_000)] = 7_000
    # The shortest time between two commits. Too short costs the broker a write for each batch, too long redelivers more
    # after a crash.
    commit_interval_s: Seconds = 0.2
    # A consumer with waiting records that makes no progress, without an outside cause, is replaced after this long. Too
    # short kills one that works on a long batch, too long keeps clients waiting for a stuck one.
    stuck_after_s: Annotated[float, Field(ge=1)] = 120.0
    # Deaths of a process at the same record after which the records there are tried one at a time; one that kills
    # again becomes a dead letter. Small tries one by one after kills of another cause, large costs more restarts.
    max_deaths: Annotated[int, Field(ge=1)] = 3


class StoreSettings(StackSettings):
    """The store: how to connect, and how long results stay."""

    redis_url: Annotated[str, Field(repr=False)] = "redis://127.0.0.1:6379/0"
    # User and password, where the URL has none, and the certificate authority of a `rediss://` store. All become part
    # of `redis_url`; a password that is given here needs no %-encoding.
    redis_username: str = ""
    redis_password: SecretStr | None = None
    redis_ssl_cafile: Path | None = None
    result_ttl_s: Seconds = 3_600.0
    # How long a result stays that a waiting client received, of a call without an Idempotency-Key.
    delivered_result_ttl_s: Seconds = 300.0


class WorkerSettings(StackSettings):
    """The workers: batches, lanes, and when a model has failed too often."""

    max_batch_rows: Annotated[int, Field(ge=1)] = 256
    intra_op_num_threads: Annotated[int, Field(ge=1)] = 1
    batches_in_flight: Annotated[int, Field(ge=1)] = 2
    # The share of time that bulk gets while both lanes have work.
    bulk_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    # The share of waiting clients' results that is copied to `inferlane.results`.
    results_sample: Annotated[float, Field(ge=0, le=1)] = 0.0
    # A worker whose model failed on more than this share of its last `failure_window_requests` requests halts, and
    # tries a few again after `failure_pause_s`. A small window halts on a burst of bad luck, a large one sends more
    # requests into the dead letters first.
    failure_share_limit: Annotated[float, Field(gt=0, le=1)] = 0.5
    failure_window_requests: Annotated[int, Field(ge=1)] = 200
    failure_pause_s: Seconds = 10.0
    # How long a run may take whose requests another version answers otherwise (a rollout, a fallback, a shadow), unless
    # earlier runs were as long. Longer runs are ended and the worker halts. Too short ends slow models, too long keeps
    # clients waiting for one that hangs: they wait for `default_wait_s`.
    trial_run_limit_s: Seconds = 4.0


class WebhookSettings(StackSettings):
    """Callbacks: whether requests may name a URL for their result, and how it is called (docs/webhooks.md)."""

    # Whether requests may name a `callback_url`: then `inferlane webhooks` must run, and its topics are created.
    webhooks: bool = False
    # What callbacks are signed with, for `inferlane webhooks` alone: `whsec_` and 24 to 64 bytes as Base64. Several,
    # separated by commas, sign each callback side by side while receivers change from one to the next.
    webhook_secret: SecretStr | None = None
    # Networks that are not public and may be called all the same, as `10.1.0.0/16,fd00::/8`.
    webhook_allowed_networks: str = ""
    # The time of one call. Too short gives up on receivers that work before they answer, too long lets slow ones hold
    # more connections.
    webhook_timeout_s: Annotated[float, Field(gt=0, le=60)] = 15.0
    # The wait before the second try; each further one is four times as long, up to 256 times the first.
    webhook_first_retry_s: Seconds = 5.0
    # How long a callback is tried. Its topics keep records for three days, so no longer than two.
    webhook_give_up_s: Annotated[float, Field(gt=0, le=172_800)] = 86_400.0
    # Calls at once to one receiver. Too few are slow for a receiver with many results, too many are an attack on it.
    webhook_calls_per_host: Annotated[int, Field(ge=1)] = 8

    @property
    def webhook_networks(self) -> tuple[Network, ...]:
        """The networks of `webhook_allowed_networks`."""
        return parse_networks(self.webhook_allowed_networks)


class FeedbackSettings(StackSettings):
    """Outcome tokens and feedback."""

    # Signs outcome tokens, the same in API, router and workers; without it results have none. Several with commas
    # between: the first signs, all are accepted.
    feedback_secret: SecretStr | None = None
    # How old a token may be when its feedback is given, and for how long repeated feedback is known as such.
    feedback_max_age_s: Seconds = 30 * 86_400.0


class RolloutSettings(StackSettings):
    """The source of numbers outside the stack by which rollouts are judged."""

    # The Prometheus, as http://prometheus:9090, that the check `prometheus` of a rollout asks, set for API and router.
    # A rollout names a query and never a server. The token is sent as `Authorization: Bearer`, by the router alone.
    prometheus_url: Annotated[str, Field(pattern=r"^(https?://.+)?$", repr=False)] = ""
    prometheus_token: SecretStr | None = None


class OutcomeSettings(StackSettings):
    """The windows behind `GET /v1/metrics/{version}`."""

    outcome_interval_s: Seconds = 1.0
    outcome_slot_s: Annotated[int, Field(ge=1)] = 5
    outcome_window_s: Annotated[int, Field(ge=10)] = 3_600

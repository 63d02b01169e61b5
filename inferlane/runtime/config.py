"""Settings of every process: the one place that reads the environment, but for OpenTelemetry's own variables.

A profile (embedded, compose, Kubernetes) is a set of these values, never a branch in the code.
"""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, unquote

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from inferlane.contracts.naming import DEFAULT_PREFIX, PREFIX_RULE, Names
from inferlane.errors import ConfigurationError
from inferlane.runtime.redis.url import parse_store_url

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """All settings, each from `INFERLANE_<NAME>`; the defaults suit one machine."""

    model_config = SettingsConfigDict(env_prefix="INFERLANE_", frozen=True, extra="ignore")

    # What every topic, consumer group, store key and channel of this stack begins with: two stacks on one broker or one
    # store need two prefixes. Changing it is starting anew: nothing of the old prefix is read again.
    prefix: Annotated[str, Field(pattern=PREFIX_RULE)] = DEFAULT_PREFIX

    # Where things are.
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    redis_url: Annotated[str, Field(repr=False)] = "redis://127.0.0.1:6379/0"
    models_dir: Path = Path(".inferlane/models")
    state_dir: Path = Path(".inferlane")
    default_model: str = "iris"

    # Where we listen. The ops port serves /metrics, /livez and /readyz of a process that has no API.
    api_host: str = "127.0.0.1"
    api_port: Port = 8000
    ops_host: str = "127.0.0.1"
    ops_port: Port = 0
    # The live dashboard, and where it finds the API; empty is that of api_host and api_port.
    dashboard_host: str = "127.0.0.1"
    dashboard_port: Port = 3000
    api_url: str = ""

    # Who may call the API: whoever has a key of the file (`inferlane keys`). With no file the API is open, and starts
    # on loopback alone unless `api_auth` is `off`. `api_key` is what our own commands send as clients.
    api_keys_file: Path | None = None
    api_auth: Literal["auto", "off"] = "auto"
    api_key: SecretStr | None = None
    # Names beside localhost, with commas between, by which calls may address a port that asks for no key on loopback.
    allowed_hosts: str = ""
    # What the head of a call (request line and headers) may be, and how long a client may take to send head and body:
    # too short cuts off clients on slow lines, too long lets idle connections pile up.
    max_head_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024
    max_headers: Annotated[int, Field(ge=8)] = 100
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 60.0
    # How long a client may leave an answer unread before its connection is cut: too short cuts off slow lines in the
    # middle of a large answer, too long lets answers that nobody reads pile up.
    write_timeout_s: Seconds = 60.0
    # Connections that a process serves at once, within three quarters of what its limit of open files allows.
    max_connections: Annotated[int, Field(ge=1)] = 12_000

    # The request: how long a client waits, how long an answer is worth computing, how large it may be.
    default_wait_s: Seconds = 10.0
    max_wait_s: Seconds = 60.0
    # What a call may take past its wait to find out whether broker and store have its request. Short says "unknown"
    # where a busy broker would have said "accepted", long lets clients wait for parts that are away.
    answer_grace_s: Seconds = 1.5
    # Whether a predict call without an Idempotency-Key whose client closes its connection is taken back: nobody else
    # knows its id. Off, it is computed as any other.
    cancel_on_disconnect: bool = False
    default_deadline_s: Seconds = 300.0
    max_deadline_s: Seconds = 86_400.0
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    max_result_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    # How many requests one API process holds open at once. Too small refuses bursts that the queue could
    # take; too large spends memory on clients that will time out anyway.
    max_waiting_requests: Annotated[int, Field(ge=1)] = 10_000
    # What one API process holds of bodies of calls under way, and of records that the broker has not taken yet.
    max_pending_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    # Requests of one version that wait in the topics; past it new ones are refused whatever their deadline.
    max_backlog_records: Annotated[int, Field(ge=1)] = 200_000
    # How often the broker is asked for each version's backlog while requests come: too often costs it two calls and
    # one a version each time, too seldom lets a burst be judged by numbers from before it.
    backlog_poll_s: Seconds = 0.5
    result_ttl_s: Seconds = 3_600.0
    # How long a result is kept that was handed to the client that waited for it, of a call without an Idempotency-Key.
    delivered_result_ttl_s: Seconds = 300.0
    # The share of the store's `maxmemory` past which no new request is let in: what is on its way still needs room.
    store_full_share: Annotated[float, Field(gt=0, le=1)] = 0.9

    # Kafka. Few partitions embedded, as many as maxReplicaCount on a cluster.
    ingress_partitions: Annotated[int, Field(ge=1)] = 12
    work_partitions: Annotated[int, Field(ge=1)] = 12
    replication_factor: Annotated[int, Field(ge=1)] = 1
    kafka_idempotence: bool = True
    # How long the broker holds a fetch that found nothing. Apache Kafka wakes a waiting fetch at once, so long
    # is cheap; Tansu does not, so there this is a floor of the latency.
    fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 500
    # What that grows to while a lane stays empty, by 10 ms a second: longer spares an idle machine, and is what the
    # first request after a pause may wait at each of its two hops.
    idle_fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 250
    # How long a group waits for a member that says nothing before it gives its partitions to others: so long a killed
    # router or worker keeps clients waiting. Heartbeats run on the event loop, a tenth of it apart, and nothing of ours
    # holds that for a second. Too long makes every crash an outage, too short takes a pause of the machine for one.
    session_timeout_ms: Annotated[int, Field(ge=6_000)] = 7_000
    # Offsets are committed at most this often: too often costs the broker a write a batch, too seldom
    # redelivers more after a crash.
    commit_interval_s: Seconds = 0.2
    # A consumer whose records wait while nothing moves, for no cause outside of it, is replaced after this long. Too
    # short kills one that works on a long batch, too long leaves clients waiting for one that will never move.
    stuck_after_s: Annotated[float, Field(ge=1)] = 120.0
    # Deaths of a process at the same record, after which the records there are tried one at a time; one that kills
    # again ends as a dead letter. Small tries one by one after kills of another cause, large costs more restarts.
    max_deaths: Annotated[int, Field(ge=1)] = 3
    kafka_request_timeout_ms: Annotated[int, Field(ge=100)] = 10_000

    # How to get in: docs/connections.md. `inferlane.runtime.broker_access` says which of these go together.
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    # The store's user and password, where the URL has none, and the authority behind the certificate of a `rediss://`
    # store; all become part of `redis_url`. A password that is given here needs no %-encoding.
    redis_username: str = ""
    redis_password: SecretStr | None = None
    redis_ssl_cafile: Path | None = None

    # Workers.
    max_batch_rows: Annotated[int, Field(ge=1)] = 256
    intra_op_num_threads: Annotated[int, Field(ge=1)] = 1
    batches_in_flight: Annotated[int, Field(ge=1)] = 2
    # Of the time that both lanes have work, the share that bulk gets.
    bulk_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    # The share of the results of waiting clients that is copied to `inferlane.results`.
    results_sample: Annotated[float, Field(ge=0, le=1)] = 0.0
    # A worker whose model failed on more than this share of its last `failure_window_requests` requests halts, and
    # tries a few again after `failure_pause_s`. A small window halts on a burst of bad luck, a large one sends more
    # requests into the dead letters first.
    failure_share_limit: Annotated[float, Field(gt=0, le=1)] = 0.5
    failure_window_requests: Annotated[int, Field(ge=1)] = 200
    failure_pause_s: Seconds = 10.0
    drain_deadline_s: Seconds = 20.0

    # Outcome windows behind `GET /v1/metrics/{version}`.
    outcome_interval_s: Seconds = 1.0
    outcome_slot_s: Annotated[int, Field(ge=1)] = 5
    outcome_window_s: Annotated[int, Field(ge=10)] = 3_600

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # Not a ValueError, which pydantic would report with every value, passwords too.
        check_broker_access(self)
        check_store_access(self)
        return self

    @property
    def names(self) -> Names:
        """What things are called on the broker and in the store."""
        return Names(self.prefix)

    @property
    def known_hosts(self) -> frozenset[str]:
        """The names of `allowed_hosts`, in lower case."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())

    def environment(self) -> dict[str, str]:
        """What was chosen, passwords in the clear, as the environment that gives it to another process.

        Without the API key: it is for our own calls, so that no process needs it and it must not lie in the run file.
        """
        chosen = {name: getattr(self, name) for name in sorted(self.model_fields_set - {"api_key"})}
        return {f"INFERLANE_{name.upper()}": _plain(value) for name, value in chosen.items() if value is not None}


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment, with `overrides` on top.

    Raises:
        ConfigurationError: a value is out of its range; the message names the variable, the value and the limit.
    """
    try:
        return _with_authority(_with_login(Settings(**overrides)))  # type: ignore[arg-type]  # pydantic checks each value
    except ValidationError as error:
        faults = "; ".join(
            f"INFERLANE_{'_'.join(str(part) for part in fault['loc']).upper()}={fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigurationError(f"{faults}. Change or unset the variable.") from error


def check_broker_access(settings: Settings) -> None:
    """Refuse settings of the broker's security that contradict each other.

    Raises:
        ConfigurationError: the message names what is missing or in vain.
    """
    protocol = settings.kafka_security_protocol
    tls: tuple[str, ...] = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
    sasl: tuple[str, ...] = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
    unused = () if protocol.endswith("SSL") else tls
    unused += () if protocol.startswith("SASL") else sasl
    if in_vain := [_variable(name) for name in unused if getattr(settings, name) is not None]:
        raise ConfigurationError(
            f"{', '.join(in_vain)} would not be used with INFERLANE_KAFKA_SECURITY_PROTOCOL={protocol}; "
            "choose SSL, SASL_PLAINTEXT or SASL_SSL, or unset what is not used."
        )
    needed = sasl if protocol.startswith("SASL") else ()
    if settings.kafka_ssl_keyfile is not None:
        needed += ("kafka_ssl_certfile",)
    if missing := [_variable(name) for name in needed if not getattr(settings, name)]:
        raise ConfigurationError(
            f"{', '.join(missing)} must be set too: INFERLANE_KAFKA_SECURITY_PROTOCOL={protocol}"
            f"{', with a key' if settings.kafka_ssl_keyfile else ''}. docs/connections.md has an example."
        )


def check_store_access(settings: Settings) -> None:
    """Refuse a store's URL that no client can use. Never says the URL, which may hold a password.

    Raises:
        ConfigurationError: the message names what is wrong with it.
    """
    address = parse_store_url(settings.redis_url)
    if settings.redis_ssl_cafile is not None and not address.has_tls:
        scheme = settings.redis_url.partition("://")[0]
        raise ConfigurationError(
            f"INFERLANE_REDIS_SSL_CAFILE would not be used: INFERLANE_REDIS_URL begins with {scheme}://. "
            "Write rediss:// (rediss+sentinel://, rediss+cluster://) for TLS, or unset the file."
        )


def _with_login(settings: Settings) -> Settings:
    """Put user and password of the store in the URL, where redis-py reads them.

    Raises:
        ConfigurationError: the URL has others, or there is a user without a password.
    """
    if settings.redis_password is None:
        if settings.redis_username:
            raise ConfigurationError(
                "INFERLANE_REDIS_USERNAME would not be used: there is no INFERLANE_REDIS_PASSWORD. Set it, or put both "
                "in INFERLANE_REDIS_URL."
            )
        return settings
    login = (settings.redis_username, settings.redis_password.get_secret_value())
    scheme, _, rest = settings.redis_url.partition("://")
    held, at, _ = rest.partition("/")[0].rpartition("@")
    if not at:
        quoted = ":".join(quote(part, safe="") for part in login)
        return settings.model_copy(update={"redis_url": f"{scheme}://{quoted}@{rest}"})
    user, _, password = held.partition(":")
    if (unquote(user), unquote(password)) != login:
        # From a process of ours it is the same one, passed on with the password that it was made of.
        raise ConfigurationError(
            "INFERLANE_REDIS_URL has a user or password, and INFERLANE_REDIS_PASSWORD is another; keep one of them."
        )
    return settings


def _with_authority(settings: Settings) -> Settings:
    """Put the authority in the URL, where redis-py reads it: then the URL is all that a client needs."""
    if settings.redis_ssl_cafile is None or "ssl_ca_certs=" in settings.redis_url:
        return settings
    if not settings.redis_ssl_cafile.is_file():
        raise ConfigurationError(
            f"INFERLANE_REDIS_SSL_CAFILE={str(settings.redis_ssl_cafile)!r} is no file. Name a PEM file with the "
            "authority that signed the store's certificate."
        )
    joint = "&" if "?" in settings.redis_url else "?"
    url = f"{settings.redis_url}{joint}ssl_ca_certs={quote(str(settings.redis_ssl_cafile), safe='/')}"
    return settings.model_copy(update={"redis_url": url})


def _variable(name: str) -> str:
    return f"INFERLANE_{name.upper()}"


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

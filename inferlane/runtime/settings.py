"""The settings that every service shares, by part: stack, ports, Kafka and store. A constructor takes its part.

A field's environment variable is `INFERLANE_` and its alias, or its name where it has none. `inferlane.runtime.config`
reads the environment; `inferlane.runtime.service_settings` has the parts of single services.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from inferlane.contracts.naming import DEFAULT_PREFIX, PREFIX_RULE, Names
from inferlane.contracts.sticky_runs import STICKY_RECORDS

Port = Annotated[int, Field(ge=0, le=65535)]
# Upper bounds that no use comes near. Past them timers, the store's times, the broker's int32 or the machine's memory
# fail later, and without the name of the setting.
_DAY_S = 86_400
# A wait, a timeout or an interval.
Seconds = Annotated[float, Field(gt=0, le=_DAY_S)]
# How long something is kept or may be asked for.
LongSeconds = Annotated[float, Field(gt=0, le=366 * _DAY_S)]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]
# What is counted one by one: records, rows, calls.
Count = Annotated[int, Field(ge=1, le=10_000_000)]
# What each costs a thread, a task or a copy.
FewCount = Annotated[int, Field(ge=1, le=1_024)]
# A message of the broker or the store, and a list of them in memory.
MessageBytes = Annotated[int, Field(ge=64, le=2**30)]
MemoryBytes = Annotated[int, Field(ge=1024, le=2**40)]


class SettingsPart(BaseModel):
    """Values that one kind of component needs; frozen, and each checked on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class StackSettings(SettingsPart):
    """What the whole stack has in common: the prefix of names, the folders of files, the default model and the logs."""

    # The first part of every topic, consumer group, store key and channel. Two stacks on one broker or one
    # store need two prefixes. A changed prefix is a new stack: nothing under the old prefix is read again.
    prefix: Annotated[str, Field(pattern=PREFIX_RULE)] = DEFAULT_PREFIX
    models_dir: Path = Path(".inferlane/models")
    state_dir: Path = Path(".inferlane")
    default_model: str = "iris"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"

    @property
    def names(self) -> Names:
        """The names of this stack on the broker and in the store."""
        return Names(self.prefix)


class PortSettings(SettingsPart):
    """The HTTP edge of every port: the address of the ops port, and the limits of one connection."""

    # The ops port serves /metrics, /livez and /readyz of a process, without TLS. The API has them on its own port, and
    # opens an ops port only where one is set.
    ops_host: str = "127.0.0.1"
    ops_port: Port = 0
    # More host names, separated by commas, that calls to a loopback port without keys may use besides localhost.
    allowed_hosts: str = ""
    # The size of request line and headers, and the time that a client has to send head and body. Too short cuts off
    # clients on slow lines, too long lets idle connections pile up.
    max_head_bytes: Annotated[int, Field(ge=1024, le=2**24)] = 32 * 1024
    max_headers: Annotated[int, Field(ge=8, le=100_000)] = 100
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 60.0
    # How long a client may leave an answer unread before its connection is closed. Too short cuts off slow lines in the
    # middle of a large answer, too long lets unread answers pile up.
    write_timeout_s: Seconds = 60.0
    # Open connections of one process; never more than three quarters of its limit of open files.
    max_connections: Count = 12_000

    @property
    def known_hosts(self) -> frozenset[str]:
        """The names of `allowed_hosts`, in lower case."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())


class KafkaSettings(SettingsPart):
    """Kafka: how to connect, the topics, and how records are fetched and committed."""

    bootstrap_servers: Annotated[str, Field(alias="kafka_bootstrap_servers")] = "127.0.0.1:9092"
    # docs/connections.md; `check_broker_access` says which of these go together.
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Field(alias="kafka_security_protocol")
    ] = "PLAINTEXT"
    ssl_cafile: Annotated[Path | None, Field(alias="kafka_ssl_cafile")] = None
    ssl_certfile: Annotated[Path | None, Field(alias="kafka_ssl_certfile")] = None
    ssl_keyfile: Annotated[Path | None, Field(alias="kafka_ssl_keyfile")] = None
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, Field(alias="kafka_sasl_mechanism")
    ] = None
    sasl_username: Annotated[str | None, Field(alias="kafka_sasl_username")] = None
    sasl_password: Annotated[SecretStr | None, Field(alias="kafka_sasl_password")] = None
    idempotence: Annotated[bool, Field(alias="kafka_idempotence")] = True
    # The codec of batches of small requests. With zstd they take a third of the broker's disk, memory and network, and
    # up to a tenth more CPU. Whatever else reads the topics of requests must know it.
    compression_type: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], Field(alias="kafka_compression_type")
    ] = "none"
    request_timeout_ms: Annotated[Milliseconds, Field(ge=100, alias="kafka_request_timeout_ms")] = 10_000
    # Few partitions on the embedded broker, as many as maxReplicaCount on a cluster.
    ingress_partitions: Annotated[int, Field(ge=1, le=100_000)] = 12
    work_partitions: Annotated[int, Field(ge=1, le=100_000)] = 12
    # Records without an order that the router writes to one partition in a row (sticky partitioner). Fewer make small
    # batches for broker and worker; more give all waiting records to one worker of the pool.
    sticky_records: Count = STICKY_RECORDS
    replication_factor: FewCount = 1
    # How long topics keep requests and results, for topics that are created from now on: existing ones keep theirs. No
    # shorter than `max_deadline_s`, and shorter than the broker keeps offsets (7 days): a pool that was scaled to zero
    # for longer than that would infer all of them again. Longer takes more disk.
    request_retention_s: Annotated[float, Field(ge=3_600, le=518_400)] = 259_200.0
    # The largest body of a call, and of a record.
    max_body_bytes: Annotated[MessageBytes, Field(ge=1024)] = 8 * 1024 * 1024
    # The largest result; topics and store must hold it.
    max_result_bytes: Annotated[MessageBytes, Field(ge=1024)] = 8 * 1024 * 1024
    # How long the broker holds a fetch that found nothing. Apache Kafka wakes a waiting fetch at once, so long
    # is cheap; Tansu does not, so there this is a floor of the latency.
    fetch_max_wait_ms: Milliseconds = 500
    # The wait that `fetch_max_wait_ms` grows to while a lane stays empty, by 10 ms a second. Longer spares an idle
    # machine; it is what the first request after a pause may wait at each of its two hops.
    idle_fetch_max_wait_ms: Milliseconds = 250
    # Where consumers on this machine listen for producers beside them, which hand on what they have written; None: they
    # fetch it. Only where all processes share the folder.
    arrivals_dir: Path | None = None
    # Whether the broker answers a waiting fetch at the moment a record arrives, as Apache Kafka does. If not, and there
    # are signals (`arrivals_dir`), consumers rest until there is one instead of fetching often.
    wakes_fetches: Annotated[bool, Field(alias="kafka_wakes_fetches")] = True
    # How long a group waits for a silent member before it gives its partitions to others: after a kill of a router or
    # worker clients wait this long. Heartbeats run on the event loop several times within it, and none of our code
    # blocks the loop for a second. Too long makes every crash an outage, too short treats a pause as a crash. A broker
    # takes half an hour at most.
    session_timeout_ms: Annotated[int, Field(ge=6_000, le=1_800_000)] = 7_000
    # The shortest time between two commits. Too short costs the broker a write for each batch, too long redelivers more
    # after a crash.
    commit_interval_s: Seconds = 0.2
    # A consumer with waiting records that makes no progress, without an outside cause, is replaced after this long. Too
    # short kills one that works on a long batch, too long keeps clients waiting for a stuck one.
    stuck_after_s: Annotated[Seconds, Field(ge=1)] = 120.0
    # Deaths of a process at the same record after which the records there are tried one at a time; one that kills
    # again becomes a dead letter. Small tries one by one after kills of another cause, large costs more restarts.
    max_deaths: Count = 3
    # How long a process that is told to stop, or a consumer that loses a partition, may finish what it has begun.
    drain_deadline_s: Seconds = 20.0

    @property
    def rests_dir(self) -> Path | None:
        """Where consumers listen that fetch nothing until a signal; None: they wait at the broker."""
        return None if self.wakes_fetches else self.arrivals_dir


class StoreSettings(SettingsPart):
    """The store: how to connect, and how long results stay."""

    redis_url: Annotated[str, Field(repr=False)] = "redis://127.0.0.1:6379/0"
    # User and password, where the URL has none, and the certificate authority of a `rediss://` store. All become part
    # of `redis_url`; a password that is given here needs no %-encoding.
    redis_username: str = ""
    redis_password: SecretStr | None = None
    redis_ssl_cafile: Path | None = None
    # The store counts whole seconds: of less than one it keeps nothing, and refuses to.
    result_ttl_s: Annotated[LongSeconds, Field(ge=1)] = 3_600.0
    # How long a result stays that a waiting client received, of a call without an Idempotency-Key.
    delivered_result_ttl_s: Annotated[LongSeconds, Field(ge=1)] = 300.0

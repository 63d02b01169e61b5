"""The settings of single services, by part: API, its clients, dashboard, workers, webhooks, rollouts and outcomes."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from inferlane.contracts.callback_addresses import Network, parse_networks
from inferlane.contracts.naming import is_model_name
from inferlane.contracts.outcome_token import OutcomeTokens
from inferlane.errors import ConfigurationError
from inferlane.runtime.settings import (
    Count,
    FewCount,
    LongSeconds,
    MemoryBytes,
    MessageBytes,
    Port,
    Seconds,
    SettingsPart,
)

_READ_WAIT_S = 60.0
_MAX_CACHED_S = 366 * 86_400
_WHOLE_SECONDS = re.compile(r"0*[1-9][0-9]{0,8}")


def _seconds_by_name(text: str) -> dict[str, int]:
    """Read `name=seconds,…`.

    Raises:
        ValueError: a part has another form.
    """
    found: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, seconds = part.partition("=")
        if not is_model_name(name) or not _WHOLE_SECONDS.fullmatch(seconds) or int(seconds) > _MAX_CACHED_S:
            raise ValueError(f"{part[:80]!r} is not MODEL=SECONDS, as in iris=60, with 1 to {_MAX_CACHED_S} seconds")
        found[name] = int(seconds)
    return found


class ApiSettings(SettingsPart):
    """The API: where it listens, who may call it, how long a call waits and how much is admitted."""

    # Of both ports; `0.0.0.0` is every address of IPv4, `::` every one of IPv6 and IPv4.
    host: Annotated[str, Field(alias="api_host")] = "127.0.0.1"
    port: Annotated[Port, Field(alias="api_port")] = 8000
    # API processes of `inferlane up` that share the port; 0: 1 up to 5 cores, then one for 3 cores. Too few leave cores
    # unused while the API's own work sets the pace, too many cost memory (80 MB each) and make smaller batches. On
    # Kubernetes replicas do this.
    processes: Annotated[int, Field(ge=0, le=64, alias="api_processes")] = 0
    # `name=ops URL` of each process that shares the port, separated by commas; set by `inferlane up`. `/metrics` then
    # has those of all.
    peers: Annotated[str, Field(alias="api_peers")] = ""
    # The certificate chain and private key of the HTTP port, in PEM; read again when they change. Without them the port
    # has no TLS.
    ssl_certfile: Annotated[Path | None, Field(alias="api_ssl_certfile")] = None
    ssl_keyfile: Annotated[Path | None, Field(alias="api_ssl_keyfile")] = None
    # The port of the Open Inference Protocol over gRPC, at the same address; 0: none. Needs the extra `grpc`.
    grpc_port: Port = 0
    # The certificate chain and private key of the gRPC port, in PEM; read again when they change. Without them the port
    # has no TLS.
    grpc_ssl_certfile: Path | None = None
    grpc_ssl_keyfile: Path | None = None
    # The file with the API keys (`inferlane keys`). Without one the API is open, and starts on loopback alone unless
    # `api_auth` is `off`.
    keys_file: Annotated[Path | None, Field(alias="api_keys_file")] = None
    auth: Annotated[Literal["auto", "off"], Field(alias="api_auth")] = "auto"
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
    default_deadline_s: LongSeconds = 300.0
    max_deadline_s: LongSeconds = 86_400.0
    max_rows: Count = 10_000
    # Calls that one API process holds open. Too small refuses bursts that the queue could take, too large spends memory
    # on clients that will time out anyway.
    max_waiting_requests: Count = 10_000
    # Bytes in one API process: bodies of calls under way, and records that the broker has not acknowledged.
    max_pending_bytes: MemoryBytes = 256 * 1024 * 1024
    # The backlog of one version past which new requests are refused whatever their deadline.
    max_backlog_records: Annotated[int, Field(ge=1, le=10**12)] = 200_000
    # How often the backlog of each version is read while requests come. Too often costs the broker calls for
    # each version, too seldom judges a burst by numbers from before it.
    backlog_poll_s: Seconds = 0.5
    # The share of the store's `maxmemory` past which no new request is admitted: those under way still need room.
    store_full_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    # The models whose answers are kept and given again, each with the seconds that an answer may be old, as in
    # iris=60,fraud=5. Only for models that always answer the same rows the same.
    response_cache: str = ""
    # Answers that all replicas keep together, and the largest that is kept: their product bounds the memory.
    response_cache_entries: Count = 4_096
    response_cache_entry_bytes: MessageBytes = 16 * 1024

    @property
    def longest_read_wait_s(self) -> float:
        """What a read of a result may ask for: clients that do not know `max_wait_s` ask for up to a minute."""
        return max(_READ_WAIT_S, self.max_wait_s)

    @property
    def cached_models(self) -> dict[str, int]:
        """The seconds for which an answer is kept, by model."""
        return _seconds_by_name(self.response_cache)

    @field_validator("response_cache")
    @classmethod
    def _names_models(cls, value: str) -> str:
        _seconds_by_name(value)
        return value


class ClientSettings(SettingsPart):
    """How our own commands and the dashboard reach the API."""

    # The API's address for clients of ours; empty means `api_host` and `api_port`.
    url: Annotated[str, Field(alias="api_url")] = ""
    # The authorities that our own commands trust where the API has TLS, in PEM; default: those of the system, and on
    # the machine of the API the certificate of `api_ssl_certfile`.
    ssl_cafile: Annotated[Path | None, Field(alias="api_ssl_cafile")] = None
    # The key that our own commands send.
    key: Annotated[SecretStr | None, Field(alias="api_key")] = None

    @field_validator("key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        # A key that is read from a file ends with a line end; Compose passes an empty one for a variable that is unset.
        key = "" if value is None else value.get_secret_value().strip()
        if key.isascii() and key.isprintable():
            return SecretStr(key) if key else None
        # Not a ValueError, which pydantic would report with the key.
        raise ConfigurationError(
            f"INFERLANE_API_KEY has {len(key)} characters, and not all are printable ASCII, so no header can hold it; "
            "set it to one key, as `inferlane keys create` printed it"
        )


class DashboardSettings(SettingsPart):
    """The live dashboard: where it listens."""

    host: Annotated[str, Field(alias="dashboard_host")] = "127.0.0.1"
    port: Annotated[Port, Field(alias="dashboard_port")] = 3000


class WorkerSettings(SettingsPart):
    """The workers: batches, lanes, and when a model has failed too often."""

    max_batch_rows: Count = 256
    intra_op_num_threads: FewCount = 1
    batches_in_flight: FewCount = 2
    # The share of time that bulk gets while both lanes have work.
    bulk_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    # The share of waiting clients' results that is copied to `inferlane.results`.
    results_sample: Annotated[float, Field(ge=0, le=1)] = 0.0
    # A worker whose model failed on more than this share of its last `failure_window_requests` requests halts, and
    # tries a few again after `failure_pause_s`. A small window halts on a burst of bad luck, a large one sends more
    # requests into the dead letters first.
    failure_share_limit: Annotated[float, Field(gt=0, le=1)] = 0.5
    failure_window_requests: Count = 200
    failure_pause_s: Seconds = 10.0
    # How long a run may take whose requests another version answers otherwise (a rollout, a fallback, a shadow), unless
    # earlier runs were as long. Longer runs are ended and the worker halts. Too short ends slow models, too long keeps
    # clients waiting for one that hangs: they wait for `default_wait_s`.
    trial_run_limit_s: Seconds = 4.0


class WebhookSettings(SettingsPart):
    """Callbacks: whether requests may name a URL for their result, and how it is called (docs/webhooks.md)."""

    # Whether requests may name a `callback_url`: then `inferlane webhooks` must run, and its topics are created.
    enabled: Annotated[bool, Field(alias="webhooks")] = False
    # What callbacks are signed with, for `inferlane webhooks` alone: `whsec_` and 24 to 64 bytes as Base64. Several,
    # separated by commas, sign each callback side by side while receivers change from one to the next.
    secret: Annotated[SecretStr | None, Field(alias="webhook_secret")] = None
    # Networks that are not public and may be called all the same, as `10.1.0.0/16,fd00::/8`.
    allowed_networks: Annotated[str, Field(alias="webhook_allowed_networks")] = ""
    # The time of one call. Too short gives up on receivers that work before they answer, too long lets slow ones hold
    # more connections.
    timeout_s: Annotated[float, Field(gt=0, le=60, alias="webhook_timeout_s")] = 15.0
    # The wait before the second try; each further one is four times as long, up to 256 times the first.
    first_retry_s: Annotated[Seconds, Field(alias="webhook_first_retry_s")] = 5.0
    # How long a callback is tried. Its topics keep records for three days, so no longer than two.
    give_up_s: Annotated[float, Field(gt=0, le=172_800, alias="webhook_give_up_s")] = 86_400.0
    # Calls at once to one receiver. Too few are slow for a receiver with many results, too many are an attack on it.
    calls_per_host: Annotated[FewCount, Field(alias="webhook_calls_per_host")] = 8

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks of `allowed_networks`."""
        return parse_networks(self.allowed_networks)


class FeedbackSettings(SettingsPart):
    """Outcome tokens and feedback."""

    # Signs outcome tokens, the same in API, router and workers; without it results have none. Several with commas
    # between: the first signs, all are accepted.
    secret: Annotated[SecretStr | None, Field(alias="feedback_secret")] = None
    # How old a token may be when its feedback is given, and for how long repeated feedback is known as such.
    max_age_s: Annotated[LongSeconds, Field(alias="feedback_max_age_s")] = 30 * 86_400.0

    @property
    def tokens(self) -> OutcomeTokens | None:
        """What signs and reads outcome tokens; None without a secret."""
        return None if self.secret is None else OutcomeTokens.of(self.secret.get_secret_value())


class RolloutSettings(SettingsPart):
    """The source of numbers outside the stack by which rollouts are judged."""

    # The Prometheus, as http://prometheus:9090, that the check `prometheus` of a rollout asks, set for API and router.
    # A rollout names a query and never a server. The token is sent as `Authorization: Bearer`, by the router alone.
    prometheus_url: Annotated[str, Field(pattern=r"^(https?://.+)?$", repr=False)] = ""
    prometheus_token: SecretStr | None = None


class OutcomeSettings(SettingsPart):
    """The windows behind `GET /v1/metrics/{version}`."""

    interval_s: Annotated[Seconds, Field(alias="outcome_interval_s")] = 1.0
    slot_s: Annotated[int, Field(ge=1, le=86_400, alias="outcome_slot_s")] = 5
    # The topic of outcomes keeps a day, and a router that starts builds its windows from it.
    window_s: Annotated[int, Field(ge=10, le=86_400, alias="outcome_window_s")] = 3_600

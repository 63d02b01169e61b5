"""Metrics of the API: requests, responses, and waiting calls."""

from inferlane.runtime.metrics.instruments import POOL, counter, gauge, histogram

ACCEPTED = counter("inferlane_api_accepted_total", "Requests that the broker acknowledged.", ("model",))
ANSWERS = counter(
    "inferlane_api_answers_total",
    "Responses of the predict call by HTTP status and reason (an error code, or none).",
    ("model", "version", "status", "reason"),
)
LATENCY = histogram(
    "inferlane_api_latency_seconds", "Time of a predict call, from the read body to the response.", POOL
)
ENQUEUE = histogram(
    "inferlane_api_enqueue_seconds", "Time from the send of a batch of requests to its acknowledgement."
)
IDEMPOTENT = counter(
    "inferlane_api_idempotent_calls_total",
    "Calls with an Idempotency-Key: the first with the key, or a repeat of that request.",
    ("outcome",),
)
CACHE = counter(
    "inferlane_api_cache_lookups_total",
    "Calls to models with a response cache: answered by it (hit), computed (miss), or computed as it is away (error).",
    ("model", "outcome"),
)
BACKLOG = gauge("inferlane_api_backlog_records", "Records of the request lane that wait for a version.", POOL)
SERVICE_RATE = gauge(
    "inferlane_api_service_rate_records",
    "Records per second that a version finishes while it has work; 0: unknown.",
    POOL,
)
WAITING = gauge("inferlane_api_waiting_requests", "Clients that wait for a result in this process.")
DENIED = counter(
    "inferlane_api_denied_calls_total", "Calls that were refused for lack of a valid key, by error code.", ("reason",)
)
GRPC_CALLS = counter("inferlane_api_grpc_calls_total", "Calls over gRPC by method and status code.", ("method", "code"))

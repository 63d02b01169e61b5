"""Metrics of the API: what came in, what was answered, and who waits."""

from inferlane.runtime.metrics.declaring import POOL, counter, gauge, histogram

ACCEPTED = counter("inferlane_api_accepted_total", "Requests that the broker acknowledged.", ("model",))
ANSWERS = counter(
    "inferlane_api_answers_total",
    "Answers of the predict call by HTTP status and reason (an error code, or none). Version none: none was reached.",
    ("model", "version", "status", "reason"),
)
LATENCY = histogram("inferlane_api_latency_seconds", "Predict call, from body read to answer.", POOL)
ENQUEUE = histogram("inferlane_api_enqueue_seconds", "One batch of requests, from send to acknowledgement.")
IDEMPOTENT = counter(
    "inferlane_api_idempotent_calls_total",
    "Calls with an Idempotency-Key: first of their key, or replayed from the request that it stands for.",
    ("outcome",),
)
BACKLOG = gauge("inferlane_api_backlog_records", "Records of the request lane that wait for a version.", POOL)
SERVICE_RATE = gauge(
    "inferlane_api_service_rate_records",
    "Records a second that a version finishes while it has work; 0: unknown.",
    POOL,
)
WAITING = gauge("inferlane_api_waiting_requests", "Clients that wait for a result in this process.")
DENIED = counter("inferlane_api_denied_calls_total", "Calls that no key let in, by error code.", ("reason",))

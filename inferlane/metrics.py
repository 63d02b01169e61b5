"""The catalogue of Prometheus metrics: `inferlane_<component>_<what>_<unit>`, labels bounded, never a request id."""

from prometheus_client import Counter, Gauge, Histogram

# From a fifth of a millisecond to a minute, about three buckets a decade: what a queue in front of a model can take.
_LATENCY_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

API_ANSWERS = Counter("inferlane_api_answers_total", "Answers of the predict call by HTTP status.", ("model", "status"))
API_LATENCY = Histogram(
    "inferlane_api_latency_seconds", "Predict call, from body read to answer.", ("model",), buckets=_LATENCY_BUCKETS_S
)
API_BACKLOG = Gauge(
    "inferlane_api_backlog_records", "Records of the request lane that wait for a version.", ("model", "version")
)
API_SERVICE_RATE = Gauge(
    "inferlane_api_service_rate_records",
    "Records a second that a version finishes while it has work; 0 while unknown.",
    ("model", "version"),
)
API_WAITING = Gauge("inferlane_api_waiting_requests", "Clients that wait for a result in this process.")
API_DENIED = Counter("inferlane_api_denied_calls_total", "Calls that no key let in, by error code.", ("reason",))

ROUTER_ROUTED = Counter(
    "inferlane_router_routed_records_total", "Records sent on to a version.", ("model", "version", "lane")
)
ROUTER_REFUSED = Counter(
    "inferlane_router_refused_records_total", "Records that no version can serve.", ("lane", "reason")
)
ROUTER_DELAY = Histogram(
    "inferlane_router_delay_seconds",
    "From acceptance to the acknowledgement of the routed batch, oldest record of a batch.",
    ("lane",),
    buckets=_LATENCY_BUCKETS_S,
)

WORKER_REQUESTS = Counter(
    "inferlane_worker_requests_total", "Terminal results by status.", ("model", "version", "lane", "status")
)
WORKER_BATCH_ROWS = Histogram(
    "inferlane_worker_batch_rows", "Rows of one inference run.", ("model", "version", "lane"), buckets=_ROWS_BUCKETS
)
WORKER_QUEUE_WAIT = Histogram(
    "inferlane_worker_queue_wait_seconds",
    "From acceptance to the start of inference, oldest record of a batch.",
    ("model", "version", "lane"),
    buckets=_LATENCY_BUCKETS_S,
)
WORKER_INFERENCE = Histogram(
    "inferlane_worker_inference_seconds",
    "One inference run.",
    ("model", "version", "lane"),
    buckets=_LATENCY_BUCKETS_S,
)
WORKER_HALTED = Gauge(
    "inferlane_worker_halted", "1 while a worker takes nothing because its model fails.", ("model", "version")
)
AUTOSCALER_WANTED = Gauge(
    "inferlane_autoscaler_wanted_workers", "Workers that the local autoscaler wants.", ("model", "version")
)
AUTOSCALER_LAG = Gauge(
    "inferlane_autoscaler_lag_records", "Records that wait, as the local autoscaler last saw them.", ("topic",)
)
DEAD_LETTERS = Counter("inferlane_dead_letters_total", "Records sent to the dead letters.", ("reason",))

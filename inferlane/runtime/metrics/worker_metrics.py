"""Metrics of a worker: the times of its requests, their outcomes, and the model's predictions."""

from inferlane.runtime.metrics.instruments import POOL, POOL_LANE, batch_histogram, counter, gauge, histogram

_ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
# A regression may predict any number: one bucket a decade on both sides of zero shows a shift of scale or sign.
_DECADES = tuple(10.0**exponent for exponent in range(-3, 7))
_VALUE_BUCKETS = (*(-decade for decade in reversed(_DECADES)), 0.0, *_DECADES)

REQUESTS = counter(
    "inferlane_worker_requests_total",
    "Terminal results by status and reason (an error code, or none).",
    (*POOL_LANE, "status", "reason"),
)
TOPIC_WAIT = batch_histogram(
    "inferlane_worker_topic_wait_seconds",
    "Time of each record from the router (its timestamp in the version's topic) to the worker's fetch.",
    POOL_LANE,
)
BATCH_WAIT = histogram(
    "inferlane_worker_batch_wait_seconds", "Time of each batch from the fetch to the start of inference.", POOL_LANE
)
QUEUE_WAIT = batch_histogram(
    "inferlane_worker_queue_wait_seconds", "Time of each request from acceptance to the start of inference.", POOL_LANE
)
BATCH_ROWS = histogram("inferlane_worker_batch_rows", "Rows of one inference run.", POOL_LANE, buckets=_ROWS_BUCKETS)
INFERENCE = histogram("inferlane_worker_inference_seconds", "Time of one inference run.", POOL_LANE)
STORE = histogram(
    "inferlane_worker_store_seconds", "Time of each batch from the end of inference to durable results.", POOL_LANE
)
TOTAL = batch_histogram(
    "inferlane_worker_total_seconds",
    "Time of each successful request from acceptance to the durable result.",
    POOL_LANE,
)
BUSY = counter(
    "inferlane_worker_busy_seconds_total", "Time in inference; its rate is the busy ratio of a worker.", POOL_LANE
)
PREDICTIONS = counter(
    "inferlane_worker_predictions_total",
    "Predicted rows by class; without class names by label, the first 100 of a worker and `other`.",
    (*POOL, "class"),
)
PREDICTION_VALUE = batch_histogram(
    "inferlane_worker_prediction_value", "Predictions of a regression.", POOL, buckets=_VALUE_BUCKETS
)
FALLBACKS = counter(
    "inferlane_worker_fallbacks_total",
    "Requests that this version failed, or reached too late, and that another version answers instead.",
    POOL_LANE,
)
SHADOW_COPIES = counter(
    "inferlane_worker_shadow_copies_total",
    "Shadow copies that this version sent or could not send, and that it compared, failed, reached too late, or could "
    "not compare.",
    (*POOL, "outcome"),
)
HALTED = gauge("inferlane_worker_halted", "1 while a worker is halted because its model fails.", POOL)
PROVIDER = gauge(
    "inferlane_worker_provider_info",
    "1 for each execution provider of onnxruntime that this worker's model runs on.",
    (*POOL, "provider"),
)
MODEL_SIZE = gauge("inferlane_worker_model_size_bytes", "Size of the model file that this worker serves.", POOL)

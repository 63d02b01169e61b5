"""Metrics of the router: the records that it forwards, and its view of the whole deployment."""

from inferlane.runtime.metrics.instruments import POOL, POOL_LANE, batch_histogram, counter, gauge, histogram

ROUTED = counter("inferlane_router_routed_records_total", "Records forwarded to a version.", POOL_LANE)
REFUSED = counter("inferlane_router_refused_records_total", "Records that no version can serve.", ("lane", "reason"))
SHADOW_COPIES = counter(
    "inferlane_router_shadow_copies_total",
    "Requests of which a shadow copy is asked for, or dropped because the version is behind.",
    ("outcome",),
)
FEEDBACK = counter(
    "inferlane_router_feedback_total",
    "Labels and rewards of predictions that were counted, or refused because they cannot be read.",
    ("outcome",),
)
INGRESS_WAIT = batch_histogram(
    "inferlane_router_ingress_wait_seconds",
    "Time of each record from the API (its timestamp in the request topic) to the router's fetch.",
    POOL_LANE,
)
FORWARD = histogram(
    "inferlane_router_forward_seconds",
    "Time of a fetched batch from the router's fetch to the acknowledgement of its records.",
    ("lane",),
)

INGRESS_LAG = gauge("inferlane_ingress_lag_records", "Records that wait for the router.", ("lane",))
INGRESS_AGE = gauge(
    "inferlane_ingress_oldest_age_seconds", "Lower bound of the time that the oldest of them has waited.", ("lane",)
)
POOL_LAG = gauge("inferlane_pool_lag_records", "Records that wait for the workers of a version.", POOL_LANE)
POOL_AGE = gauge(
    "inferlane_pool_oldest_age_seconds", "Lower bound of the time that the oldest of them has waited.", POOL_LANE
)
POOL_MAX = gauge(
    "inferlane_pool_max_workers",
    "Maximum of workers of a version that can have work: the partitions of its topic.",
    POOL,
)
SPLIT_WEIGHT = gauge(
    "inferlane_split_weight_ratio", "Share of a model's traffic that its split gives to a version.", POOL
)
ROLLOUT_PHASE = gauge(
    "inferlane_rollout_phase_ratio",
    "1 for the phase of a model's rollout (under way, else ended last), 0 for others; only the deciding router has it.",
    ("model", "phase"),
)
ROLLOUT_EVIDENCE = gauge(
    "inferlane_rollout_log_evidence_ratio",
    "Logarithm of the e-value that the candidate is worse; it rolls back or pauses at about 4.6 (alpha 0.01).",
    ("model", "check"),
)
ROLLOUT_PAUSED = gauge(
    "inferlane_rollout_paused_seconds", "How long the rollout of a model is paused; 0 while it is not.", ("model",)
)
ROLLOUT_ERRORS = counter(
    "inferlane_rollout_errors_total", "Times that deciding on rollouts failed by an error of ours and began anew."
)
ROLLOUT_UNREAD = counter(
    "inferlane_rollout_unread_total",
    "Times that the source of a check had no value: no answer, or no single finite number; asked every 5 s a rollout.",
    ("check",),
)
STORE_USED = gauge("inferlane_store_used_bytes", "Memory that the result store uses.")
STORE_MAX = gauge("inferlane_store_max_bytes", "Memory that the result store may use; 0: no limit.")

"""Metrics of every consumer and of the dead letters, which router and workers share."""

from inferlane.runtime.metrics.declaring import POOL_LANE, counter, gauge

REBALANCES = counter("inferlane_consumer_rebalances_total", "Assignments that a consumer was given.", ("topic",))
CONSUMER_LAG = gauge(
    "inferlane_consumer_lag_records", "Records of its partitions that a consumer has not finished.", ("topic",)
)
CONSUMER_STILL = gauge(
    "inferlane_consumer_still_seconds", "For how long records have waited with no progress of a consumer.", ("topic",)
)
DEAD_LETTERS = counter("inferlane_dead_letters_total", "Records sent to the dead letters.", (*POOL_LANE, "reason"))

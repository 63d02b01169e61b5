"""Metrics of every consumer and of the dead letters, which router and workers share."""

from inferlane.runtime.metrics.declaring import POOL_LANE, counter, gauge

REBALANCES = counter("inferlane_consumer_rebalances_total", "Partition assignments of a consumer.", ("topic",))
CONSUMER_LAG = gauge(
    "inferlane_consumer_lag_records", "Records of its partitions that a consumer has not finished.", ("topic",)
)
CONSUMER_STILL = gauge(
    "inferlane_consumer_still_seconds",
    "Time for which records have waited without progress of the consumer.",
    ("topic",),
)
DEAD_LETTERS = counter("inferlane_dead_letters_total", "Dead-lettered records.", (*POOL_LANE, "reason"))

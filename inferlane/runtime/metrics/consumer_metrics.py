"""Metrics of every consumer, of the dead letters and of the local autoscaler.

The local autoscaler does what KEDA and the HPA do in a cluster.
"""

from inferlane.runtime.metrics.instruments import POOL, POOL_LANE, counter, gauge

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


WANTED = gauge("inferlane_autoscaler_wanted_workers", "Desired replicas of the local autoscaler.", POOL)
LAG = gauge("inferlane_autoscaler_lag_records", "Waiting records, as the local autoscaler last read them.", ("topic",))

"""Metrics of the autoscaler of the local stack: what KEDA and the HPA say in a cluster."""

from inferlane.runtime.metrics.declaring import POOL, gauge

WANTED = gauge("inferlane_autoscaler_wanted_workers", "Desired replicas of the local autoscaler.", POOL)
LAG = gauge("inferlane_autoscaler_lag_records", "Waiting records, as the local autoscaler last read them.", ("topic",))

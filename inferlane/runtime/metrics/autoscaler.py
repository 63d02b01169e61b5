"""Metrics of the autoscaler of the local stack: what KEDA and the HPA say in a cluster."""

from inferlane.runtime.metrics.declaring import POOL, gauge

WANTED = gauge("inferlane_autoscaler_wanted_workers", "Workers that the local autoscaler wants.", POOL)
LAG = gauge("inferlane_autoscaler_lag_records", "Records that wait, as the local autoscaler last saw them.", ("topic",))

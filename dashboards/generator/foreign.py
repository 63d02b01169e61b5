"""Names in our queries that are not ours: metrics of others, and what the recording rules make."""

CPU_S = "process_cpu_seconds_total"
MEMORY_BYTES = "process_resident_memory_bytes"
"""prometheus_client's own, of each process of ours."""

UP = "up"
"""Prometheus' own, of each target."""

KEDA_WISH = "kube_horizontalpodautoscaler_status_desired_replicas"
"""kube-state-metrics: the replicas that KEDA's autoscaler wants."""

KUBE_METRICS = frozenset({KEDA_WISH})
FOREIGN = frozenset({CPU_S, MEMORY_BYTES, UP, *KUBE_METRICS})

ERROR_RATIO = "inferlane:requests:error_ratio5m"
P95_S = "inferlane:total_seconds:p95_5m"
BUSY_RATIO = "inferlane:worker_busy:ratio5m"
WORKERS = "inferlane:pool_workers:count"
LAG = "inferlane:pool_lag_records:max"
WEIGHT = "inferlane:split_weight:max"
STABLE = "inferlane:split_weight:stable"
CANARY = "inferlane:split_weight:canary"
INCREASE = "inferlane:requests:increase10m"
RECORDED = frozenset({ERROR_RATIO, P95_S, BUSY_RATIO, WORKERS, LAG, WEIGHT, STABLE, CANARY, INCREASE})
"""What dashboards/prometheus/rules/recording.yml makes."""

"""What the Prometheus operator scrapes, with the labels that our dashboards and rules use."""

from control_plane.kubernetes.names import PART_OF, Document, document
from control_plane.kubernetes.plan import Plan

_RELABELLED = {
    "component": "__meta_kubernetes_pod_label_app_kubernetes_io_component",
    "pool": "__meta_kubernetes_pod_label_app_kubernetes_io_instance",
    "process": "__meta_kubernetes_pod_name",
}


def monitor_document(plan: Plan) -> Document:
    """Return one PodMonitor: API pods name their port `http`, the others `ops`."""
    relabelings = [
        {"action": "replace", "sourceLabels": [source], "targetLabel": label} for label, source in _RELABELLED.items()
    ]
    return document(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        {"name": PART_OF, "namespace": plan.namespace, "labels": {"app.kubernetes.io/part-of": PART_OF}},
        spec={
            "selector": {
                "matchLabels": {"app.kubernetes.io/name": PART_OF},
                "matchExpressions": [
                    {"key": "app.kubernetes.io/component", "operator": "In", "values": ["api", "router", "worker"]}
                ],
            },
            "podMetricsEndpoints": [
                {"port": port, "path": "/metrics", "interval": "15s", "relabelings": relabelings}
                for port in ("http", "ops")
            ],
        },
    )

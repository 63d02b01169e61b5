"""Who may talk to whom: nobody, but for what is listed."""

from urllib.parse import urlsplit

from control_plane.kubernetes.deployment_plan import (
    API_PORT,
    KAFKA_PORT,
    KEDA_NAMESPACE,
    MONITORING_NAMESPACE,
    OPS_PORT,
    PART_OF,
    STORE_PORT,
    STRIMZI_NAMESPACE,
    TRACES_PORT,
    DeploymentPlan,
    Document,
    document,
    kafka_labels,
)

_COMPONENT = "app.kubernetes.io/component"
_SERVICES = {
    "matchLabels": {"app.kubernetes.io/name": PART_OF},
    "matchExpressions": [{"key": _COMPONENT, "operator": "In", "values": ["api", "router", "worker", "operator"]}],
}
_KAFKA = {"matchLabels": kafka_labels()}
_STORE = {"matchLabels": {_COMPONENT: "store"}}


def policy_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the policies of the namespace: first that nothing is allowed, then what is."""
    from_services = [{"podSelector": _SERVICES}]
    dns = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    api = {"matchLabels": {_COMPONENT: "api"}}
    operator = {"matchLabels": {_COMPONENT: "operator"}}
    to_parts = [
        _to(_STORE, STORE_PORT) if plan.runs_store else {"ports": _ports(*_store_ports(plan))},
        _to(_KAFKA, KAFKA_PORT) if plan.runs_kafka else {"ports": _ports(*_kafka_ports(plan))},
        {"to": [_namespace(MONITORING_NAMESPACE)], "ports": _ports(TRACES_PORT)},
    ]
    scraped = {"from": [_namespace(MONITORING_NAMESPACE)], "ports": _ports(API_PORT, OPS_PORT)}
    store = _policy(
        plan, "store", _STORE, policyTypes=["Ingress"], ingress=[{"from": from_services, "ports": _ports(STORE_PORT)}]
    )
    return [
        _policy(plan, "default-deny", {}, policyTypes=["Ingress", "Egress"]),
        _policy(plan, "dns", {}, policyTypes=["Egress"], egress=[dns]),
        _policy(plan, "services", _SERVICES, policyTypes=["Ingress", "Egress"], ingress=[scraped], egress=to_parts),
        _policy(plan, "api", api, policyTypes=["Ingress"], ingress=[{"ports": _ports(API_PORT)}]),
        _policy(plan, "operator", operator, policyTypes=["Egress"], egress=[_to(api, API_PORT)]),
        *([store] if plan.runs_store else []),
    ]


def kafka_policy(plan: DeploymentPlan) -> Document:
    """Return the brokers' policy: our pods and KEDA as clients; each other, and the operator, on every port."""
    inside = [{"podSelector": _KAFKA}]
    clients = [{"podSelector": _SERVICES}, _namespace(KEDA_NAMESPACE)]
    return _policy(
        plan,
        "kafka",
        _KAFKA,
        policyTypes=["Ingress", "Egress"],
        ingress=[
            {"from": clients, "ports": _ports(KAFKA_PORT)},
            {"from": [*inside, _namespace(STRIMZI_NAMESPACE)]},
        ],
        # The entity operator talks to the cluster's API server, which has no pod that could be selected.
        egress=[{"to": inside}, {"ports": _ports(443, 6443)}],
    )


def _to(pods: Document, port: int) -> Document:
    return {"to": [{"podSelector": pods}], "ports": _ports(port)}


def _store_ports(plan: DeploymentPlan) -> set[int]:
    """Where somebody else's store listens; it may be anywhere, so the port is all that can be said."""
    return {urlsplit(plan.settings.redis_url).port or STORE_PORT}


def _kafka_ports(plan: DeploymentPlan) -> set[int]:
    """The same of somebody else's brokers."""
    servers = plan.settings.kafka_bootstrap_servers.split(",")
    return {int(server.rpartition(":")[2]) for server in servers}


def _policy(plan: DeploymentPlan, name: str, pods: Document, **rules: object) -> Document:
    metadata = {"name": name, "namespace": plan.namespace}
    return document("networking.k8s.io/v1", "NetworkPolicy", metadata, spec={"podSelector": pods, **rules})


def _namespace(name: str) -> Document:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _ports(*ports: int) -> list[Document]:
    return [{"protocol": "TCP", "port": port} for port in sorted(ports)]


_RELABELLED = {
    "component": "__meta_kubernetes_pod_label_app_kubernetes_io_component",
    "pool": "__meta_kubernetes_pod_label_app_kubernetes_io_instance",
    "process": "__meta_kubernetes_pod_name",
}


def monitor_document(plan: DeploymentPlan) -> Document:
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

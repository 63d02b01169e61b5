"""Who may talk to whom: nobody, but for what is listed."""

from inferlane.kubernetes.names import (
    KEDA_NAMESPACE,
    MONITORING_NAMESPACE,
    PART_OF,
    STRIMZI_NAMESPACE,
    Document,
    document,
    kafka_labels,
)
from inferlane.kubernetes.plan import API_PORT, KAFKA_PORT, KAFKA_TLS_PORT, OPS_PORT, STORE_PORT, TRACES_PORT, Plan

_COMPONENT = "app.kubernetes.io/component"
_KAFKA_PORTS = (KAFKA_PORT, KAFKA_TLS_PORT)
_SERVICES = {
    "matchLabels": {"app.kubernetes.io/name": PART_OF},
    "matchExpressions": [{"key": _COMPONENT, "operator": "In", "values": ["api", "router", "worker"]}],
}
_KAFKA = {"matchLabels": kafka_labels()}
_STORE = {"matchLabels": {_COMPONENT: "store"}}


def policy_documents(plan: Plan) -> list[Document]:
    """Return the policies of the namespace: first that nothing is allowed, then what is."""
    from_services = [{"podSelector": _SERVICES}]
    dns = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    to_parts = [
        {"to": [{"podSelector": _STORE}], "ports": _ports(STORE_PORT)},
        {"to": [{"podSelector": _KAFKA}], "ports": _ports(*_KAFKA_PORTS)},
        {"to": [_namespace(MONITORING_NAMESPACE)], "ports": _ports(TRACES_PORT)},
    ]
    scraped = {"from": [_namespace(MONITORING_NAMESPACE)], "ports": _ports(API_PORT, OPS_PORT)}
    api = {"matchLabels": {_COMPONENT: "api"}}
    return [
        _policy(plan, "default-deny", {}, policyTypes=["Ingress", "Egress"]),
        _policy(plan, "dns", {}, policyTypes=["Egress"], egress=[dns]),
        _policy(plan, "services", _SERVICES, policyTypes=["Ingress", "Egress"], ingress=[scraped], egress=to_parts),
        _policy(plan, "api", api, policyTypes=["Ingress"], ingress=[{"ports": _ports(API_PORT)}]),
        _policy(
            plan,
            "store",
            _STORE,
            policyTypes=["Ingress"],
            ingress=[{"from": from_services, "ports": _ports(STORE_PORT)}],
        ),
    ]


def kafka_policy(plan: Plan) -> Document:
    """Return the brokers' policy: our pods and KEDA as clients; each other, and the operator, on every port."""
    inside = [{"podSelector": _KAFKA}]
    clients = [{"podSelector": _SERVICES}, _namespace(KEDA_NAMESPACE)]
    return _policy(
        plan,
        "kafka",
        _KAFKA,
        policyTypes=["Ingress", "Egress"],
        ingress=[
            {"from": clients, "ports": _ports(*_KAFKA_PORTS)},
            {"from": [*inside, _namespace(STRIMZI_NAMESPACE)]},
        ],
        # The entity operator talks to the cluster's API server, which has no pod that could be selected.
        egress=[{"to": inside}, {"ports": _ports(443, 6443)}],
    )


def _policy(plan: Plan, name: str, pods: Document, **rules: object) -> Document:
    metadata = {"name": name, "namespace": plan.namespace}
    return document("networking.k8s.io/v1", "NetworkPolicy", metadata, spec={"podSelector": pods, **rules})


def _namespace(name: str) -> Document:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _ports(*ports: int) -> list[Document]:
    return [{"protocol": "TCP", "port": port} for port in ports]

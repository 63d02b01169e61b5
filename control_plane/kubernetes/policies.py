"""Policies around the workloads: how they scale (ScaledObjects, HPA), who may connect, and what is scraped."""

import msgspec

from control_plane.autoscaling.capacity_plan import make_scaled_object
from control_plane.autoscaling.scaled_object import ScaledObject
from control_plane.broker_acls import Service, user_name
from control_plane.kubernetes.deployment_plan import (
    API_PORT,
    CA_FILE,
    CERTIFICATE_FILE,
    GRPC_PORT,
    KAFKA_AUTHENTICATION,
    KAFKA_CA_SECRET,
    KAFKA_CLIENT_SECRET,
    KAFKA_PORT,
    KEDA_NAMESPACE,
    KEY_FILE,
    MONITORING_NAMESPACE,
    OPS_PORT,
    OTHER_KAFKA_CA_SECRET,
    PART_OF,
    STORE_PORT,
    STRIMZI_NAMESPACE,
    TRACES_PORT,
    DeploymentPlan,
    Document,
    PoolPlan,
    document,
    kafka_labels,
    labels,
)
from control_plane.kubernetes.outside_ports import prometheus_rules, store_ports
from control_plane.kubernetes.pod_spec import PASSWORD, SECRETS
from inferlane.contracts.naming import Lane
from inferlane.runtime.config import broker_ports

_API_CPU_PERCENT = 70
# KEDA's names of the mechanisms.
_MECHANISMS = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}
API_REPLICAS = (1, 12)


def pool_scaled_object(plan: DeploymentPlan, pool: PoolPlan) -> Document:
    """Return the ScaledObject of a pool: both lanes of each version, from zero to the number of partitions.

    A process of several versions reads every partition by itself: a second one would do the same work again.
    """
    names = plan.settings.stack.names
    of_versions = [
        make_scaled_object(
            name=pool.name,
            target=pool.name,
            group=names.worker_group(*version),
            thresholds={topic: pool.thresholds[topic] for topic in (names.work_topic(*version, lane) for lane in Lane)},
            max_replicas=1 if pool.is_shared else plan.settings.kafka.work_partitions,
        )
        for version in pool.versions
    ]
    triggers = tuple(trigger for each in of_versions for trigger in each.triggers)
    return _document(plan, msgspec.structs.replace(of_versions[0], triggers=triggers))


def router_scaled_object(plan: DeploymentPlan) -> Document:
    """Return the router's ScaledObject. Never zero: without a router no record reaches the topics that wake a pool."""
    scaled_object = make_scaled_object(
        name="inferlane-router",
        target="inferlane-router",
        group=plan.settings.stack.names.router_group,
        thresholds=plan.router_thresholds,
        max_replicas=plan.settings.kafka.ingress_partitions,
    )
    return _document(plan, msgspec.structs.replace(scaled_object, min_replicas=1))


def api_autoscaler(plan: DeploymentPlan) -> Document:
    """Return the API's HPA. It holds waiting clients rather than records, so it scales by CPU."""
    metadata = {"name": "inferlane-api", "namespace": plan.namespace, "labels": labels("api", "api")}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": _API_CPU_PERCENT}}
    least, most = API_REPLICAS
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "inferlane-api"},
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": [{"type": "Resource", "resource": cpu}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }
    return document("autoscaling/v2", "HorizontalPodAutoscaler", metadata, spec=spec)


def authentication_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the credentials of KEDA: the autoscaler's user, which may only read offsets."""
    settings = plan.settings
    if not _logs_in(plan):
        return []
    name = user_name(settings.stack.names, Service.AUTOSCALER)
    metadata = {"namespace": plan.namespace, "labels": {"app.kubernetes.io/part-of": "inferlane"}}
    spec: Document = {}
    documents = []
    if settings.kafka.sasl_username is not None:
        user = name if plan.has_users else settings.kafka.sasl_username
        password = (name, PASSWORD) if plan.has_users else (SECRETS, "INFERLANE_KAFKA_SASL_PASSWORD")
        documents.append(document("v1", "ConfigMap", {"name": name, **metadata}, data={"username": user}))
        spec["configMapTargetRef"] = [{"parameter": "username", "name": name, "key": "username"}]
        spec["secretTargetRef"] = [{"parameter": "password", "name": password[0], "key": password[1]}]
    if settings.kafka.ssl_cafile is not None:
        authority = KAFKA_CA_SECRET if plan.runs_kafka else OTHER_KAFKA_CA_SECRET
        spec.setdefault("secretTargetRef", []).append({"parameter": "ca", "name": authority, "key": CA_FILE})
    if settings.kafka.ssl_certfile is not None:
        spec.setdefault("secretTargetRef", []).extend(
            {"parameter": parameter, "name": KAFKA_CLIENT_SECRET, "key": file}
            for parameter, file in (("cert", CERTIFICATE_FILE), ("key", KEY_FILE))
        )
    reference = document(
        "keda.sh/v1alpha1", "TriggerAuthentication", {"name": KAFKA_AUTHENTICATION, **metadata}, spec=spec
    )
    return [*documents, reference]


def _logs_in(plan: DeploymentPlan) -> bool:
    kafka = plan.settings.kafka
    return any(each is not None for each in (kafka.sasl_username, kafka.ssl_cafile, kafka.ssl_certfile))


def _protocol(plan: DeploymentPlan) -> Document:
    """Return the TLS and SASL settings of KEDA's scaler."""
    settings = plan.settings
    tls = {"tls": "enable"} if settings.kafka.security_protocol.endswith("SSL") else {}
    mechanism = settings.kafka.sasl_mechanism
    return tls | ({} if mechanism is None else {"sasl": _MECHANISMS[mechanism]})


def _document(plan: DeploymentPlan, scaled_object: ScaledObject) -> Document:
    behavior = msgspec.to_builtins(scaled_object.behavior)
    for direction in behavior.values():
        # The cluster's default, and a field that clusters before 1.33 refuse.
        del direction["tolerance"]
    authenticated = {"authenticationRef": {"name": KAFKA_AUTHENTICATION}} if _logs_in(plan) else {}
    periods = {"pollingInterval": scaled_object.polling_interval_s, "cooldownPeriod": scaled_object.cooldown_s}
    return document(
        "keda.sh/v1alpha1",
        "ScaledObject",
        {"name": scaled_object.name, "namespace": plan.namespace, "labels": {"app.kubernetes.io/part-of": "inferlane"}},
        spec={
            "scaleTargetRef": {"name": scaled_object.target},
            # KEDA warns of what has no meaning: only a pool that sleeps is polled, and cools down, by KEDA itself.
            **(periods if scaled_object.min_replicas == 0 else {}),
            "minReplicaCount": scaled_object.min_replicas,
            "maxReplicaCount": scaled_object.max_replicas,
            "fallback": msgspec.to_builtins(scaled_object.fallback),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}},
            "triggers": [
                {
                    "type": "kafka",
                    "metadata": {
                        "bootstrapServers": plan.settings.kafka.bootstrap_servers,
                        **_protocol(plan),
                        "consumerGroup": trigger.consumer_group,
                        "topic": trigger.topic,
                        "lagThreshold": str(trigger.lag_threshold),
                        "activationLagThreshold": str(trigger.activation_lag_threshold),
                        "offsetResetPolicy": trigger.offset_reset_policy,
                        "version": trigger.version,
                    },
                    **authenticated,
                }
                for trigger in scaled_object.triggers
            ],
        },
    )


_COMPONENT = "app.kubernetes.io/component"
_MONITORED = ("api", "router", "worker", "webhooks")


def _components(*names: str) -> Document:
    """Return the selector of the pods of these components."""
    return {
        "matchLabels": {"app.kubernetes.io/name": PART_OF},
        "matchExpressions": [{"key": _COMPONENT, "operator": "In", "values": list(names)}],
    }


_SERVICES = _components(*_MONITORED, "operator")
_KAFKA = {"matchLabels": kafka_labels()}
_STORE = {"matchLabels": {_COMPONENT: "store"}}


def policy_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the policies of the namespace: first deny everything, then the exceptions."""
    from_services = [{"podSelector": _components("api", "router", "worker", "operator")}]
    dns = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    api = {"matchLabels": {_COMPONENT: "api"}}
    operator = {"matchLabels": {_COMPONENT: "operator"}}
    router, asked = {"matchLabels": {_COMPONENT: "router"}}, prometheus_rules(plan.settings.rollouts)
    to_parts = [
        _to(_STORE, STORE_PORT) if plan.runs_store else {"ports": _ports(*store_ports(plan.settings.store))},
        _to(_KAFKA, KAFKA_PORT) if plan.runs_kafka else {"ports": _ports(*broker_ports(plan.settings.kafka))},
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
        _policy(plan, "api", api, policyTypes=["Ingress"], ingress=[{"ports": _ports(API_PORT, GRPC_PORT)}]),
        *([_webhooks_policy(plan)] if plan.settings.webhooks.enabled else []),
        _policy(plan, "operator", operator, policyTypes=["Egress"], egress=[_to(api, API_PORT)]),
        *([store] if plan.runs_store else []),
        *([_policy(plan, "prometheus", router, policyTypes=["Egress"], egress=asked)] if asked else []),
    ]


# What is not the public Internet, and the allowed networks: the process itself checks every address too.
_INSIDE_V4 = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
_INSIDE_V6 = ("fc00::/7", "fe80::/10")


def _webhooks_policy(plan: DeploymentPlan) -> Document:
    """Return the policy of the webhooks process: it calls receivers at public addresses and in the allowed networks."""
    public = [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(_INSIDE_V4)}},
        {"ipBlock": {"cidr": "::/0", "except": list(_INSIDE_V6)}},
    ]
    allowed = [{"ipBlock": {"cidr": str(network)}} for network in plan.settings.webhooks.networks]
    pods = {"matchLabels": {_COMPONENT: "webhooks"}}
    return _policy(plan, "webhooks", pods, policyTypes=["Egress"], egress=[{"to": [*public, *allowed]}])


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
    """Return one PodMonitor: API pods name their port `http`, the others, and those with TLS, `ops`."""
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
                    {"key": "app.kubernetes.io/component", "operator": "In", "values": list(_MONITORED)}
                ],
            },
            "podMetricsEndpoints": [
                {"port": port, "path": "/metrics", "interval": "15s", "relabelings": relabelings}
                for port in ("http", "ops")
            ],
        },
    )

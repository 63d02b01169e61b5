"""The ScaledObjects of pools and router, and the HorizontalPodAutoscaler of the API."""

import msgspec

from control_plane.autoscaling.capacity_plan import make_scaled_object
from control_plane.autoscaling.scaled_object import ScaledObject
from control_plane.broker_acls import Service, user_name
from control_plane.kubernetes.deployment_plan import (
    CA_FILE,
    KAFKA_AUTHENTICATION,
    KAFKA_CA_SECRET,
    OTHER_KAFKA_CA_SECRET,
    DeploymentPlan,
    Document,
    PoolPlan,
    document,
    labels,
)
from control_plane.kubernetes.workloads import PASSWORD, SECRETS

_API_CPU_PERCENT = 70
# KEDA's names of the mechanisms.
_MECHANISMS = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}
_API_REPLICAS = (1, 12)


def pool_scaled_object(plan: DeploymentPlan, pool: PoolPlan) -> Document:
    """Return the ScaledObject of a version's workers: both lanes, from zero to the number of partitions."""
    scaled_object = make_scaled_object(
        name=pool.name,
        target=pool.name,
        group=plan.settings.names.worker_group(pool.model, pool.version),
        thresholds=pool.thresholds,
        max_replicas=plan.settings.work_partitions,
    )
    return _document(plan, scaled_object)


def router_scaled_object(plan: DeploymentPlan) -> Document:
    """Return the router's ScaledObject. Never zero: without a router nothing reaches a topic that wakes a pool."""
    scaled_object = make_scaled_object(
        name="inferlane-router",
        target="inferlane-router",
        group=plan.settings.names.router_group,
        thresholds=plan.router_thresholds,
        max_replicas=plan.settings.ingress_partitions,
    )
    return _document(plan, msgspec.structs.replace(scaled_object, min_replicas=1))


def api_autoscaler(plan: DeploymentPlan) -> Document:
    """Return the API's autoscaler: what it holds is clients that wait, so it is sized by the CPU that they cost."""
    metadata = {"name": "inferlane-api", "namespace": plan.namespace, "labels": labels("api", "api")}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": _API_CPU_PERCENT}}
    least, most = _API_REPLICAS
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "inferlane-api"},
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": [{"type": "Resource", "resource": cpu}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }
    return document("autoscaling/v2", "HorizontalPodAutoscaler", metadata, spec=spec)


def authentication_documents(plan: DeploymentPlan) -> list[Document]:
    """Return how KEDA gets in to the broker: as the autoscaler's user, which may look at offsets and no more."""
    settings = plan.settings
    if not _logs_in(plan):
        return []
    name = user_name(settings.names, Service.AUTOSCALER)
    metadata = {"namespace": plan.namespace, "labels": {"app.kubernetes.io/part-of": "inferlane"}}
    spec: Document = {}
    documents = []
    if settings.kafka_sasl_username is not None:
        user = name if plan.has_users else settings.kafka_sasl_username
        password = (name, PASSWORD) if plan.has_users else (SECRETS, "INFERLANE_KAFKA_SASL_PASSWORD")
        documents.append(document("v1", "ConfigMap", {"name": name, **metadata}, data={"username": user}))
        spec["configMapTargetRef"] = [{"parameter": "username", "name": name, "key": "username"}]
        spec["secretTargetRef"] = [{"parameter": "password", "name": password[0], "key": password[1]}]
    if settings.kafka_ssl_cafile is not None:
        authority = KAFKA_CA_SECRET if plan.runs_kafka else OTHER_KAFKA_CA_SECRET
        spec.setdefault("secretTargetRef", []).append({"parameter": "ca", "name": authority, "key": CA_FILE})
    reference = document(
        "keda.sh/v1alpha1", "TriggerAuthentication", {"name": KAFKA_AUTHENTICATION, **metadata}, spec=spec
    )
    return [*documents, reference]


def _logs_in(plan: DeploymentPlan) -> bool:
    return plan.settings.kafka_sasl_username is not None or plan.settings.kafka_ssl_cafile is not None


def _protocol(plan: DeploymentPlan) -> Document:
    """What KEDA's scaler is told of TLS and SASL."""
    settings = plan.settings
    tls = {"tls": "enable"} if settings.kafka_security_protocol.endswith("SSL") else {}
    mechanism = settings.kafka_sasl_mechanism
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
                        "bootstrapServers": plan.settings.kafka_bootstrap_servers,
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

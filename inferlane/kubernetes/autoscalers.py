"""The ScaledObjects of pools and router, and the HorizontalPodAutoscaler of the API."""

import msgspec

from inferlane.kubernetes.names import Document, document, labels
from inferlane.kubernetes.plan import Plan, PoolPlan
from inferlane.scaling.numbers import scaled_object
from inferlane.scaling.scaled_object import ScaledObject

_API_CPU_PERCENT = 70
_API_REPLICAS = (1, 12)


def pool_scaled_object(plan: Plan, pool: PoolPlan) -> Document:
    """Return the ScaledObject of a version's workers: both lanes, from zero to the number of partitions."""
    numbers = scaled_object(
        name=pool.name,
        target=pool.name,
        group=plan.settings.names.worker_group(pool.model, pool.version),
        thresholds=pool.thresholds,
        max_replicas=plan.settings.work_partitions,
    )
    return _document(plan, numbers)


def router_scaled_object(plan: Plan) -> Document:
    """Return the router's ScaledObject. Never zero: without a router nothing reaches a topic that wakes a pool."""
    numbers = scaled_object(
        name="inferlane-router",
        target="inferlane-router",
        group=plan.settings.names.router_group,
        thresholds=plan.router_thresholds,
        max_replicas=plan.settings.ingress_partitions,
    )
    return _document(plan, msgspec.structs.replace(numbers, min_replicas=1))


def api_autoscaler(plan: Plan) -> Document:
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


def _document(plan: Plan, numbers: ScaledObject) -> Document:
    behavior = msgspec.to_builtins(numbers.behavior)
    for direction in behavior.values():
        # The cluster's default, and a field that clusters before 1.33 refuse.
        del direction["tolerance"]
    periods = {"pollingInterval": numbers.polling_interval_s, "cooldownPeriod": numbers.cooldown_s}
    return document(
        "keda.sh/v1alpha1",
        "ScaledObject",
        {"name": numbers.name, "namespace": plan.namespace, "labels": {"app.kubernetes.io/part-of": "inferlane"}},
        spec={
            "scaleTargetRef": {"name": numbers.target},
            # KEDA warns of what has no meaning: only a pool that sleeps is polled, and cools down, by KEDA itself.
            **(periods if numbers.min_replicas == 0 else {}),
            "minReplicaCount": numbers.min_replicas,
            "maxReplicaCount": numbers.max_replicas,
            "fallback": msgspec.to_builtins(numbers.fallback),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}},
            "triggers": [
                {
                    "type": "kafka",
                    "metadata": {
                        "bootstrapServers": plan.settings.kafka_bootstrap_servers,
                        "consumerGroup": trigger.consumer_group,
                        "topic": trigger.topic,
                        "lagThreshold": str(trigger.lag_threshold),
                        "activationLagThreshold": str(trigger.activation_lag_threshold),
                        "offsetResetPolicy": trigger.offset_reset_policy,
                        "version": trigger.version,
                    },
                }
                for trigger in numbers.triggers
            ],
        },
    )

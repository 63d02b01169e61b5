"""ScaledObjects are read as KEDA reads them, and what KEDA would ignore is refused."""

import pytest

from control_plane.autoscaling.scaled_object import Fallback, read_scaled_objects
from inferlane.errors import ConfigurationError

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: another}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: inferlane-iris-v1
spec:
  scaleTargetRef: {name: inference-service-iris-v1}
  pollingInterval: 5
  cooldownPeriod: 120
  maxReplicaCount: 12
  fallback: {failureThreshold: 3, replicas: 2, behavior: currentReplicasIfHigher}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown:
          stabilizationWindowSeconds: 300
          policies: [{type: Pods, value: 1, periodSeconds: 60}]
  triggers:
    - type: kafka
      metadata:
        bootstrapServers: kafka:9092
        consumerGroup: inferlane.iris.v1
        topic: inferlane.iris.v1.requests
        version: 2.1.0
        lagThreshold: "500"
        offsetResetPolicy: earliest
      authenticationRef: {name: kafka}
    - type: kafka
      metadata:
        bootstrapServers: kafka:9092
        consumerGroup: inferlane.iris.v1
        topic: inferlane.iris.v1.bulk
        lagThreshold: "50000"
        allowIdleConsumers: "false"
"""


def test_a_scaled_object_is_read_with_kedas_defaults_for_what_it_leaves_out() -> None:
    (numbers,) = read_scaled_objects(MANIFEST, source="hpa.yaml")
    assert (numbers.name, numbers.target) == ("inferlane-iris-v1", "inference-service-iris-v1")
    assert (numbers.min_replicas, numbers.max_replicas, numbers.hpa_min_replicas) == (0, 12, 1)
    assert (numbers.polling_interval_s, numbers.cooldown_s) == (5, 120)
    assert [trigger.lag_threshold for trigger in numbers.triggers] == [500, 50_000]
    assert [trigger.offset_reset_policy for trigger in numbers.triggers] == ["earliest", "latest"]
    assert numbers.fallback == Fallback(failure_threshold=3, replicas=2, behavior="currentReplicasIfHigher")
    assert numbers.behavior.scale_down.stabilization_window_seconds == 300
    assert [policy.value for policy in numbers.behavior.scale_up.policies or ()] == [4, 100]
    assert numbers.behavior.scale_down.tolerance == 0.1


@pytest.mark.parametrize(
    ("written", "mistaken", "named"),
    [
        ('lagThreshold: "500"', 'lagTreshold: "500"', "lagTreshold"),
        ('lagThreshold: "500"', "lagThreshold: 500", "metadata"),
        ('lagThreshold: "500"', 'lagThreshold: "0"', "lagThreshold is 0"),
        ('lagThreshold: "500"', 'lagThreshold: "many"', "lagThreshold"),
        ("offsetResetPolicy: earliest", "offsetResetPolicy: first", "offsetResetPolicy"),
        ('allowIdleConsumers: "false"', 'excludePersistentLag: "true"', "excludePersistentLag"),
        ("maxReplicaCount: 12", "maxReplicaCount: 12\n  scaleUp: 3", "scaleUp"),
        ("maxReplicaCount: 12", "maxReplicaCount: 12\n  minReplicaCount: 13", "minReplicaCount 13"),
        ("periodSeconds: 60", "periodSeconds: 0", "periodSeconds"),
        ("behavior: currentReplicasIfHigher", "behavior: higher", "behavior"),
        ("name: inferlane-iris-v1", "name: iris\n  annotations: {autoscaling.keda.sh/paused: 'true'}", "paused"),
        ("type: kafka", "type: cpu", "cpu"),
        ("pollingInterval: 5", "pollingInterval: [", "no YAML"),
        ("pollingInterval: 5", "pollingInterval: 2026-99-99", "no YAML"),
        ("pollingInterval: 5", "pollingInterval: " + "[" * 3_000, "no YAML"),
    ],
)
def test_a_mistake_is_refused_and_named(written: str, mistaken: str, named: str) -> None:
    assert written in MANIFEST
    with pytest.raises(ConfigurationError, match=named) as refused:
        read_scaled_objects(MANIFEST.replace(written, mistaken, 1), source="hpa.yaml")
    assert "hpa.yaml" in str(refused.value)


def test_a_cap_lowers_the_maximum_and_with_it_the_minimum() -> None:
    (numbers,) = read_scaled_objects(
        MANIFEST.replace("maxReplicaCount: 12", "maxReplicaCount: 12\n  minReplicaCount: 4"), source="x"
    )
    assert (numbers.capped(2).min_replicas, numbers.capped(2).max_replicas) == (2, 2)
    assert numbers.capped(20).max_replicas == 12


WRITTEN_BACK = """
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: keda.sh/v1alpha1
  kind: ScaledObject
  metadata:
    name: pool
    namespace: inferlane
    annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
    creationTimestamp: "2026-11-26T08:00:00Z"
    finalizers: [finalizer.keda.sh]
    generation: 2
    labels: {scaledobject.keda.sh/name: pool}
    managedFields: [{manager: keda, operation: Update, fieldsType: FieldsV1, fieldsV1: {"f:spec": {}}}]
    resourceVersion: "815"
    uid: 6f3c
  spec:
    scaleTargetRef: {name: pool, apiVersion: apps/v1, kind: Deployment}
    advanced:
      horizontalPodAutoscalerConfig:
        behavior: {scaleUp: {policies: [{periodSeconds: 15, type: Pods, value: 4}], selectPolicy: Max}}
      scalingModifiers: {}
    triggers:
    - type: kafka
      metadata: {consumerGroup: g, topic: t, lagThreshold: "5"}
      authenticationRef: {name: kafka, kind: TriggerAuthentication}
  status:
    conditions: [{type: Ready, status: "True", reason: ScaledObjectReady, message: ok}]
    externalMetricNames: [s0-kafka-t]
    hpaName: keda-hpa-pool
    originalReplicaCount: 1
    scaleTargetGVKR: {group: apps, kind: Deployment, resource: deployments, version: v1}
"""


def test_an_object_is_read_as_the_cluster_gives_it_back() -> None:
    (numbers,) = read_scaled_objects(WRITTEN_BACK, source="back.yaml")
    assert (numbers.name, numbers.triggers[0].lag_threshold) == ("pool", 5)
    with pytest.raises(ConfigurationError, match="formula"):
        read_scaled_objects(WRITTEN_BACK.replace("scalingModifiers: {}", "scalingModifiers: {formula: a}"), source="x")

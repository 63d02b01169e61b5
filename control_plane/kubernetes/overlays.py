"""The two overlays: what a laptop and what production do otherwise than the base."""

from collections.abc import Mapping
from typing import Any

from control_plane.kubernetes.names import API, Document
from control_plane.kubernetes.plan import Plan
from control_plane.kubernetes.pods import CONTAINER_NAME

_BROKERS = 3
_IN_SYNC = 2


def overlay_documents(plan: Plan) -> Mapping[str, Document]:
    """Return the kustomization of each overlay by its name."""
    return {"laptop": _laptop(plan), "production": _production(plan)}


def _laptop(plan: Plan) -> Document:
    """One node: a few requests, an API without keys for whoever reaches the port."""
    kafka = [
        _replaced("KafkaNodePool", "/spec/resources/requests/cpu", "100m"),
        _replaced("KafkaNodePool", "/spec/storage/volumes/0/size", "2Gi"),
    ]
    return _kustomization(
        plan,
        [],
        [
            _open_api(),
            _replaced("Deployment", "/spec/template/spec/containers/0/resources/requests/cpu", "50m"),
            *(kafka if plan.runs_kafka else []),
        ],
    )


def _production(plan: Plan) -> Document:
    """Three brokers, three API replicas, two routers, spread over nodes, scraped by Prometheus."""
    return _kustomization(
        plan,
        ["../../components/monitoring"],
        [
            *(_brokers() if plan.runs_kafka else []),
            _merged("Deployment", {"spec": {"template": {"spec": _spread()}}}),
            _replaced("ScaledObject", "/spec/minReplicaCount", 2, name="inferlane-router"),
            _replaced("HorizontalPodAutoscaler", "/spec/minReplicas", 3),
        ],
    )


def _kustomization(plan: Plan, components: list[str], patches: list[Document]) -> Document:
    kafka = ["../../components/kafka"] if plan.runs_kafka else []
    pools = [f"../../components/{pool.name}" for pool in plan.pools]
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "components": [*kafka, *components, *pools],
        "patches": patches,
    }


def _brokers() -> list[Document]:
    replicated = {
        "default.replication.factor": _BROKERS,
        "min.insync.replicas": _IN_SYNC,
        "offsets.topic.replication.factor": _BROKERS,
        "transaction.state.log.replication.factor": _BROKERS,
        "transaction.state.log.min.isr": _IN_SYNC,
    }
    return [
        _merged("Kafka", {"spec": {"kafka": {"config": replicated}}}),
        _replaced("KafkaNodePool", "/spec/replicas", _BROKERS),
        _replaced("KafkaNodePool", "/spec/storage/volumes/0/size", "200Gi"),
        _merged("KafkaTopic", {"spec": {"replicas": _BROKERS, "config": {"min.insync.replicas": _IN_SYNC}}}),
    ]


def _spread() -> Document:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "inferlane"}},
        "matchLabelKeys": ["app.kubernetes.io/instance", "pod-template-hash"],
    }
    return {"topologySpreadConstraints": [constraint]}


def _open_api() -> Document:
    """No keys and no Secret of them: for a cluster that only this machine reaches."""
    container = {
        "name": CONTAINER_NAME,
        "env": [
            {"name": "INFERLANE_API_AUTH", "value": "off"},
            {"name": "INFERLANE_API_KEYS_FILE", "$patch": "delete"},
        ],
        "volumeMounts": [{"mountPath": "/etc/inferlane/keys", "$patch": "delete"}],
    }
    volumes = [{"name": "api-keys", "$patch": "delete"}]
    return _merged(
        "Deployment", {"spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}}}, name=API
    )


def _merged(kind: str, content: Document, *, name: str | None = None) -> Document:
    """Return a strategic merge patch of every object of a kind, or of one; the name in it is wanted and not used."""
    groups = {"Deployment": "apps/v1", "Kafka": "kafka.strimzi.io/v1", "KafkaTopic": "kafka.strimzi.io/v1"}
    patch = {"apiVersion": groups[kind], "kind": kind, "metadata": {"name": name or "any"}, **content}
    return {"target": _target(kind, name), "patch": patch}


def _replaced(kind: str, path: str, value: Any, *, name: str | None = None) -> Document:
    return {"target": _target(kind, name), "patch": [{"op": "replace", "path": path, "value": value}]}


def _target(kind: str, name: str | None) -> Document:
    return {"kind": kind, **({} if name is None else {"name": name})}

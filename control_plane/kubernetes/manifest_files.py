"""The folder `k8s/`: which file holds which objects."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from control_plane.kubernetes.backing_services import (
    cluster_documents,
    store_documents,
    topic_documents,
    user_documents,
)
from control_plane.kubernetes.deployment_plan import API, KEYS_FOLDER, DeploymentPlan, Document, PoolPlan, document
from control_plane.kubernetes.pod_spec import CONTAINER_NAME, KEYS_VARIABLE, KEYS_VOLUME
from control_plane.kubernetes.policies import (
    api_autoscaler,
    authentication_documents,
    kafka_policy,
    monitor_document,
    policy_documents,
    pool_scaled_object,
    router_scaled_object,
)
from control_plane.kubernetes.workloads import (
    api_documents,
    operator_documents,
    pool_documents,
    router_documents,
    webhooks_documents,
)

_BROKERS = 3
_IN_SYNC = 2


def overlay_documents(plan: DeploymentPlan) -> Mapping[str, Document]:
    """Return the kustomization of each overlay by its name."""
    return {"laptop": _laptop(plan), "production": _production(plan)}


def _laptop(plan: DeploymentPlan) -> Document:
    """One node: small resource requests, and an API without keys for everybody who reaches the port."""
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


def _production(plan: DeploymentPlan) -> Document:
    """Three brokers, three API replicas, two routers, spread over nodes, scraped by Prometheus."""
    return _kustomization(
        plan,
        ["../../components/monitoring"],
        [
            *(_brokers() if plan.runs_kafka else []),
            _merged("Deployment", {"spec": {"template": {"spec": spread()}}}),
            _replaced("ScaledObject", "/spec/minReplicaCount", 2, name="inferlane-router"),
            _replaced("HorizontalPodAutoscaler", "/spec/minReplicas", 3),
        ],
    )


def _kustomization(plan: DeploymentPlan, components: list[str], patches: list[Document]) -> Document:
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


def spread() -> Document:
    """Return the part of a pod that spreads the replicas of a Deployment over the nodes."""
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "inferlane"}},
        "matchLabelKeys": ["app.kubernetes.io/instance", "pod-template-hash"],
    }
    return {"topologySpreadConstraints": [constraint]}


def _open_api() -> Document:
    """Remove the API keys and their Secret: for a cluster that only this machine can reach."""
    container = {
        "name": CONTAINER_NAME,
        "env": [
            {"name": "INFERLANE_API_AUTH", "value": "off"},
            {"name": KEYS_VARIABLE, "$patch": "delete"},
        ],
        "volumeMounts": [{"mountPath": KEYS_FOLDER, "$patch": "delete"}],
    }
    volumes = [{"name": KEYS_VOLUME, "$patch": "delete"}]
    return _merged(
        "Deployment", {"spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}}}, name=API
    )


def _merged(kind: str, content: Document, *, name: str | None = None) -> Document:
    """Return a strategic merge patch for all objects of a kind, or one; kustomize needs a name and ignores it."""
    groups = {"Deployment": "apps/v1", "Kafka": "kafka.strimzi.io/v1", "KafkaTopic": "kafka.strimzi.io/v1"}
    patch = {"apiVersion": groups[kind], "kind": kind, "metadata": {"name": name or "any"}, **content}
    return {"target": _target(kind, name), "patch": patch}


def _replaced(kind: str, path: str, value: Any, *, name: str | None = None) -> Document:
    return {"target": _target(kind, name), "patch": [{"op": "replace", "path": path, "value": value}]}


def _target(kind: str, name: str | None) -> Document:
    return {"kind": kind, **({} if name is None else {"name": name})}


HEADER = "# Made by `inferlane k8s render` from catalogue and settings; a test compares. Change those, not this.\n"
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}


def files(plan: DeploymentPlan) -> Mapping[str, str]:
    """Return the text of every file by its path in `k8s/`.

    A pool's Deployment is in two files: kustomize does not read files outside of a component's own folder, and
    `kubectl apply -f k8s/inference-service-v1.yaml` wants it by that name.
    """
    texts = {f"{pool.name}.yaml": _text(pool_documents(plan, pool)) for pool in plan.pools}
    texts["hpa.yaml"] = _text(
        [
            *(pool_scaled_object(plan, pool) for pool in plan.pools),
            router_scaled_object(plan),
            api_autoscaler(plan),
        ]
    )
    texts |= _folder("base", "Kustomization", base_documents(plan))
    texts["operator.yaml"] = _text(operator_documents(plan))
    if plan.runs_kafka:
        texts |= _folder("components/kafka", "Component", kafka_documents(plan))
    texts |= _folder("components/monitoring", "Component", {"pod-monitor.yaml": [monitor_document(plan)]})
    for pool in plan.pools:
        texts |= _folder(f"components/{pool.name}", "Component", documents_of_pool(plan, pool))
    for name, overlay in overlay_documents(plan).items():
        # kustomize takes a patch as text.
        patches = [{**patch, "patch": dumped(patch["patch"])} for patch in overlay["patches"]]
        texts[f"overlays/{name}/kustomization.yaml"] = _text([{**overlay, "patches": patches}])
    return texts


def text_of_pools(plan: DeploymentPlan) -> str:
    """Return the objects of the plan's pools and of nothing else: what a version needs that joins a deployment.

    Its topics are objects where Strimzi runs the broker; on another one `inferlane models serve` creates them. Users
    are not among them: they belong to all versions.
    """
    topics = {name for pool in plan.pools for name in pool.thresholds}
    return _text(
        [
            *(topic for topic in topic_documents(plan) if plan.runs_kafka and topic["spec"]["topicName"] in topics),
            *(
                each
                for pool in plan.pools
                for documents in documents_of_pool(plan, pool).values()
                for each in documents
            ),
        ]
    )


def text_of_users(plan: DeploymentPlan) -> str:
    """Return Strimzi's users, each with all of its rights."""
    return _text(user_documents(plan))


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the files below `folder`; other files in it are kept."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def base_documents(plan: DeploymentPlan) -> Mapping[str, list[Document]]:
    """Return what every deployment has, by file."""
    namespace = document("v1", "Namespace", {"name": plan.namespace, "labels": _RESTRICTED})
    return {
        "namespace.yaml": [namespace],
        "api.yaml": [*api_documents(plan), api_autoscaler(plan)],
        "router.yaml": [*router_documents(plan), router_scaled_object(plan)],
        "webhooks.yaml": webhooks_documents(plan),
        "store.yaml": store_documents(plan),
        "authentication.yaml": authentication_documents(plan),
        "network-policies.yaml": policy_documents(plan),
    }


def kafka_documents(plan: DeploymentPlan) -> Mapping[str, list[Document]]:
    """Return the cluster of Strimzi with topics and users, by file."""
    return {
        "cluster.yaml": [*cluster_documents(plan), kafka_policy(plan)],
        "topics.yaml": topic_documents(plan),
        "users.yaml": user_documents(plan),
    }


def documents_of_pool(plan: DeploymentPlan, pool: PoolPlan) -> Mapping[str, list[Document]]:
    """Return what one pool has, by file."""
    return {
        "deployment.yaml": pool_documents(plan, pool),
        "scaled-object.yaml": [pool_scaled_object(plan, pool)],
    }


def _folder(name: str, kind: str, parts: Mapping[str, list[Document]]) -> Mapping[str, str]:
    version = "v1alpha1" if kind == "Component" else "v1beta1"
    filled = {part: documents for part, documents in parts.items() if documents}
    index = {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, "resources": list(filled)}
    texts = {f"{name}/{part}": _text(documents) for part, documents in filled.items()}
    return {**texts, f"{name}/kustomization.yaml": _text([index])}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Write repeated values in full instead of YAML aliases, which are harder to read."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's hook
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Represent a text of several lines as a block."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _text(documents: Iterable[Document]) -> str:
    return HEADER + "---\n".join(dumped(each) for each in documents)


def dumped(content: object, *, width: float = 120) -> str:
    """Return the YAML of an object, its long texts folded at a width in characters."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=width)
    return text

"""The folder `k8s/`: which file holds which objects."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from control_plane.kubernetes.autoscalers import (
    api_autoscaler,
    authentication_documents,
    pool_scaled_object,
    router_scaled_object,
)
from control_plane.kubernetes.kafka import cluster_documents, topic_documents, user_documents
from control_plane.kubernetes.monitors import monitor_document
from control_plane.kubernetes.names import Document, document
from control_plane.kubernetes.network import kafka_policy, policy_documents
from control_plane.kubernetes.overlays import overlay_documents
from control_plane.kubernetes.plan import Plan, PoolPlan
from control_plane.kubernetes.store import store_documents
from control_plane.kubernetes.workloads import api_documents, operator_documents, pool_documents, router_documents

HEADER = "# Made by `inferlane k8s render` from catalogue and settings; a test compares. Change those, not this.\n"
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}


def files(plan: Plan) -> Mapping[str, str]:
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
    texts |= _folder("base", "Kustomization", _base(plan))
    texts["operator.yaml"] = _text(operator_documents(plan))
    if plan.runs_kafka:
        texts |= _folder("components/kafka", "Component", _kafka(plan))
    texts |= _folder("components/monitoring", "Component", {"pod-monitor.yaml": [monitor_document(plan)]})
    for pool in plan.pools:
        texts |= _folder(f"components/{pool.name}", "Component", _pool(plan, pool))
    for name, overlay in overlay_documents(plan).items():
        # kustomize takes a patch as text.
        patches = [{**patch, "patch": dumped(patch["patch"])} for patch in overlay["patches"]]
        texts[f"overlays/{name}/kustomization.yaml"] = _text([{**overlay, "patches": patches}])
    return texts


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the files below `folder`; others in it are left alone."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _base(plan: Plan) -> Mapping[str, list[Document]]:
    namespace = document("v1", "Namespace", {"name": plan.namespace, "labels": _RESTRICTED})
    return {
        "namespace.yaml": [namespace],
        "api.yaml": [*api_documents(plan), api_autoscaler(plan)],
        "router.yaml": [*router_documents(plan), router_scaled_object(plan)],
        "store.yaml": store_documents(plan),
        "authentication.yaml": authentication_documents(plan),
        "network-policies.yaml": policy_documents(plan),
    }


def _kafka(plan: Plan) -> Mapping[str, list[Document]]:
    return {
        "cluster.yaml": [*cluster_documents(plan), kafka_policy(plan)],
        "topics.yaml": topic_documents(plan),
        "users.yaml": user_documents(plan),
    }


def _pool(plan: Plan, pool: PoolPlan) -> Mapping[str, list[Document]]:
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
    """Writes what is used twice out twice: an alias saves nothing in a manifest and hides what it stands for."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's hook
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Several lines as several lines."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _text(documents: Iterable[Document]) -> str:
    return HEADER + "---\n".join(dumped(each) for each in documents)


def dumped(content: object) -> str:
    """Return the YAML of an object."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120)
    return text

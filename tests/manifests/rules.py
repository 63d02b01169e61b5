"""Faults in a set of manifests, as sentences; an empty list is a pass. Pure: documents in, faults out."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from control_plane.autoscaling.scaled_object import read_scaled_objects
from control_plane.topic_admin import topic_specs
from inferlane.contracts.naming import Lane, Names
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import setting_fields
from inferlane.runtime.service_settings import WebhookSettings
from inferlane.runtime.settings import KafkaSettings
from tests.manifests.access import access_faults
from tests.manifests.pod_security import pods_of, restricted_faults

NAMES = Names()

Document = dict[str, Any]
Version = tuple[str, str]
PREFIX = "INFERLANE_"
ENFORCED = "pod-security.kubernetes.io/enforce"
# Where every process of ours connects to.
_WAYS_OUT = {53: "names", 6379: "the store", 4318: "traces"}
# In C where PyYAML was built so: ten times faster.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def faults(text: str, *, versions: Iterable[Version], webhooks: bool = False) -> list[str]:
    """Return what is wrong with a multi-document manifest of a deployment that serves these versions."""
    documents = [document for document in yaml.load_all(text, Loader=_Loader) if document]
    known = list(versions)
    return [
        *_scaling_faults(text, documents, known),
        *_topic_faults(documents, known, webhooks=webhooks),
        *_workload_faults(documents),
        *(fault for name, pod in pods_of(documents) for fault in restricted_faults(name, pod)),
        *_namespace_faults(documents),
        *_policy_faults(documents),
        *access_faults(documents, names=NAMES, versions=known),
    ]


def _scaling_faults(text: str, documents: list[Document], versions: list[Version]) -> Iterator[str]:
    try:
        read_scaled_objects(text, source="manifest")
    except ConfigurationError as error:
        yield str(error)
        return
    partitions = setting_fields()["work_partitions"].default
    groups = {NAMES.router_group: frozenset(NAMES.ingress.values())} | {
        NAMES.worker_group(model, version): frozenset(NAMES.work_topic(model, version, lane) for lane in Lane)
        for model, version in versions
    }
    for document in documents:
        if document["kind"] != "ScaledObject":
            continue
        name, spec = document["metadata"]["name"], document["spec"]
        yield from _size_faults(name, spec, partitions)
        if spec.get("fallback", {}).get("behavior") != "currentReplicasIfHigher":
            yield f"{name}: fallback.behavior must be currentReplicasIfHigher"
        yield from _period_faults(name, spec)
        by_group: dict[str, set[str]] = {}
        for trigger in spec["triggers"]:
            metadata = trigger["metadata"]
            by_group.setdefault(metadata["consumerGroup"], set()).add(metadata["topic"])
            if metadata.get("offsetResetPolicy") != "earliest" or "version" not in metadata:
                yield f"{name}: a trigger needs offsetResetPolicy earliest, as the workers have it, and a version"
        for group, topics in by_group.items():
            if groups.get(group) != topics:
                yield f"{name}: group {group} with topics {sorted(topics)} is not of the code"


def _size_faults(name: str, spec: Document, partitions: int) -> Iterator[str]:
    is_shared = len({trigger["metadata"]["consumerGroup"] for trigger in spec["triggers"]}) > 1
    most = spec.get("maxReplicaCount")
    if is_shared and most != 1:
        yield f"{name}: maxReplicaCount {most}, and a second process of a shared pool does all work again"
    elif not is_shared and most != partitions:
        yield f"{name}: maxReplicaCount {most} is not the {partitions} partitions of a topic"


def _period_faults(name: str, spec: Document) -> Iterator[str]:
    if not spec.get("minReplicaCount", 0) or spec.get("idleReplicaCount") == 0:
        return
    for key in sorted({"pollingInterval", "cooldownPeriod"} & spec.keys()):
        yield f"{name}: {key} has no meaning where the minimum is {spec['minReplicaCount']}, and KEDA warns of it"


def _topic_faults(documents: list[Document], versions: list[Version], *, webhooks: bool) -> Iterator[str]:
    wanted = {
        spec.name: spec for spec in topic_specs(KafkaSettings(), Names(), WebhookSettings(enabled=webhooks), versions)
    }
    found = {each["spec"]["topicName"]: each["spec"] for each in documents if each["kind"] == "KafkaTopic"}
    if not found:
        return
    for name in sorted(wanted.keys() ^ found.keys()):
        yield f"topic {name} is {'missing' if name in wanted else 'not known to the code'}"
    for name in sorted(wanted.keys() & found.keys()):
        if found[name]["partitions"] != wanted[name].partitions:
            yield f"topic {name} has {found[name]['partitions']} partitions, not {wanted[name].partitions}"


def _workload_faults(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        if document["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        name, spec = document["metadata"]["name"], document["spec"]
        pod = spec["template"]["spec"]
        yield from _security_faults(name, pod)
        if document["kind"] == "Deployment":
            if "replicas" in spec:
                yield f"{name}: spec.replicas would undo what the autoscaler decided"
            yield from _drain_faults(name, pod)
    budgets = [each["spec"]["selector"]["matchLabels"] for each in documents if each["kind"] == "PodDisruptionBudget"]
    yield from (
        f"{document['metadata']['name']}: no PodDisruptionBudget"
        for document in documents
        if document["kind"] in {"Deployment", "StatefulSet"}
        and document["spec"]["selector"]["matchLabels"] not in budgets
    )


_PORT_SETTINGS = {"http": "API", "https": "API", "grpc": "GRPC", "ops": "OPS"}


def _drain_faults(name: str, pod: Document) -> Iterator[str]:
    container = pod["containers"][0]
    env = {each["name"]: each.get("value") for each in container["env"]}
    known = {f"{PREFIX}{field.upper()}" for field in setting_fields()}
    for unknown in sorted(set(env) - known):
        yield f"{name}: {unknown} is no setting"
    before_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain_s = float(env.get(f"{PREFIX}DRAIN_DEADLINE_S") or setting_fields()["drain_deadline_s"].default)
    grace_s = pod.get("terminationGracePeriodSeconds", 30)
    if grace_s <= before_s + drain_s:
        yield f"{name}: a grace period of {grace_s} s ends before a drain of {before_s + drain_s:g} s"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    wanted = {name: env.get(f"{PREFIX}{setting}_PORT") for name, setting in _PORT_SETTINGS.items()}
    for port, number in ports.items():
        if str(number) != wanted.get(port):
            yield f"{name}: port {port} is {number}, and the process listens on {wanted.get(port)}"
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("path") != path or asked.get("port") not in ports:
            yield f"{name}: {probe} must ask {path} on a port of the container"


def _namespace_faults(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        labels = document["metadata"].get("labels", {})
        if document["kind"] == "Namespace" and labels.get(ENFORCED) != "restricted":
            yield f"{document['metadata']['name']}: the namespace does not enforce the Pod Security level restricted"


def _policy_faults(documents: list[Document]) -> Iterator[str]:
    """Ways out that each of our pods needs; a set without policies restricts nothing."""
    policies = [each for each in documents if each["kind"] == "NetworkPolicy"]
    for document in documents if policies else ():
        if document["kind"] != "Deployment":
            continue
        labels = document["spec"]["template"]["metadata"]["labels"]
        open_ports = {
            port["port"]
            for policy in policies
            if _selects(policy["spec"]["podSelector"], labels)
            for rule in policy["spec"].get("egress", ())
            for port in rule.get("ports", ())
        }
        for port, what in _WAYS_OUT.items():
            if port not in open_ports:
                yield f"{document['metadata']['name']}: no network policy lets it out to port {port}, for {what}"


def _selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector, of the operator `In` alone, selects these labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ())
    )


def _security_faults(name: str, pod: Document) -> Iterator[str]:
    """What we ask of our own pods beyond the level that the namespace enforces."""
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{name}: the pod gets a service account's token that it does not need"
    for container in pod["containers"]:
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{name}: container {container['name']} may write its root file system"
        resources = container.get("resources", {})
        if "memory" not in resources.get("limits", {}) or not {"cpu", "memory"} <= resources.get("requests", {}).keys():
            yield f"{name}: container {container['name']} needs requests, and a limit on memory"
        if container["image"].endswith(":latest") or ":" not in container["image"]:
            yield f"{name}: image {container['image']} names no version"

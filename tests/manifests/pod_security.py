"""The `restricted` level of the Pod Security Standards, for every object that makes pods, Strimzi's too.

Source: kubernetes.io/docs/concepts/security/pod-security-standards, and the checks of `k8s.io/pod-security-admission`
(policy/check_*.go) that the API server runs; `.ci/manifests.sh` holds these rules to that module's own test pods. Only
Linux is known. Pure: documents in, sentences out.
"""

from collections.abc import Iterable, Iterator
from typing import Any

Document = dict[str, Any]

# Where these kinds have the template of their pod; a Pod is one.
_TEMPLATE_PATHS = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(
        ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"), ("spec", "template")
    ),
}
# What Strimzi runs for each part of a Kafka resource: the names of the containers in the part's template.
_STRIMZI_PARTS = {
    "kafka": ("kafkaContainer", "initContainer"),
    "entityOperator": ("topicOperatorContainer", "userOperatorContainer"),
    "cruiseControl": ("cruiseControlContainer",),
    "kafkaExporter": ("container",),
}
_WITHOUT_PODS = frozenset(
    {
        *("ConfigMap", "HorizontalPodAutoscaler", "Ingress", "Kustomization", "Component", "Namespace"),
        *("NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Role", "RoleBinding", "ScaledObject", "Secret"),
        *("Service", "ServiceAccount", "TriggerAuthentication", "KafkaTopic", "KafkaUser"),
    }
)
_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SYSCTLS = frozenset(
    {
        *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
        *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
        *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
        *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
    }
)
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_SECCOMP = frozenset({"RuntimeDefault", "Localhost"})
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def pods_of(documents: Iterable[Document]) -> Iterator[tuple[str, Document | None]]:
    """Yield the template of each pod that these objects make, with a name for messages.

    The template is None for a kind of which it is not known here whether it makes pods.
    """
    documents = list(documents)
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind in _WITHOUT_PODS:
            continue
        if kind in _TEMPLATE_PATHS:
            template = document
            for part in _TEMPLATE_PATHS[kind]:
                template = template[part]
            yield f"{kind} {name}", template
        elif kind == "Kafka":
            parts = (part for part in _STRIMZI_PARTS if part != "kafka" and part in document["spec"])
            yield from ((f"Kafka {name}, {part}", _strimzi_pod(part, document["spec"][part])) for part in parts)
        elif kind == "KafkaNodePool":
            yield f"KafkaNodePool {name}", _strimzi_pod("kafka", _brokers(document, documents))
        else:
            yield f"{kind} {name}", None


def restricted_faults(name: str, template: Document | None) -> Iterator[str]:
    """Yield why an API server whose namespace enforces `restricted` would refuse this pod."""
    if template is None:
        yield f"{name}: whether this kind makes pods is not known; add it to tests/manifests/pod_security.py"
        return
    for key, value in ((template.get("metadata") or {}).get("annotations") or {}).items():
        if key.startswith(_APPARMOR) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"{name}: annotation {key} turns AppArmor off"
    pod = template["spec"]
    own = pod.get("securityContext") or {}
    yield from (f"{name}: {key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    for volume in pod.get("volumes") or ():
        kinds = volume.keys() - {"name"}
        if not kinds <= _VOLUMES:
            yield f"{name}: volume {volume['name']} is of a kind that is not allowed: {', '.join(sorted(kinds))}"
    for sysctl in own.get("sysctls") or ():
        if sysctl["name"] not in _SYSCTLS:
            yield f"{name}: sysctl {sysctl['name']} is not allowed"
    yield from _shared_faults(name, own)
    containers = [container for key in _CONTAINER_LISTS for container in pod.get(key) or ()]
    for container in containers:
        yield from _container_faults(f"{name}: container {container['name']}", container, own)


def _container_faults(where: str, container: Document, pod: Document) -> Iterator[str]:
    own = container.get("securityContext") or {}
    yield from _shared_faults(where, own)
    # What the container does not say, the pod says for it.
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield f"{where} must run as non-root"
    seccomp = own.get("seccompProfile") or pod.get("seccompProfile") or {}
    if seccomp.get("type") not in _SECCOMP:
        yield f"{where} must have the seccomp profile RuntimeDefault"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield f"{where} may gain privileges"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{where} must drop ALL capabilities"
    if added := set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"{where} adds capabilities: {', '.join(sorted(added))}"
    if own.get("procMount", "Default") != "Default":
        yield f"{where} has a procMount of its own"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield f"{where} takes a port of its node"
    if any(handler.get("host") for handler in _handlers(container)):
        yield f"{where} has a probe or a hook that names a host"


def _shared_faults(where: str, context: Document) -> Iterator[str]:
    """What a pod's and a container's security context have in common."""
    if context.get("runAsUser") == 0:
        yield f"{where} runs as user 0"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{where} is a host process"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in _SECCOMP:
        yield f"{where} has AppArmor off"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{where} has SELinux options that are not allowed"


def _handlers(container: Document) -> Iterator[Document]:
    probes = [container.get(name) or {} for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    hooks = container.get("lifecycle") or {}
    for action in [*probes, *(hooks.get(name) or {} for name in ("preStop", "postStart"))]:
        yield from (action.get(how) or {} for how in ("httpGet", "tcpSocket"))


def _brokers(pool: Document, documents: Iterable[Document]) -> Document:
    """Return the part `kafka` as it is for this pool: each key of a pool's own template replaces the cluster's."""
    cluster = pool["metadata"].get("labels", {}).get("strimzi.io/cluster")
    shared: Document = {}
    for document in documents:
        if document["kind"] == "Kafka" and document["metadata"]["name"] == cluster:
            shared = document["spec"]["kafka"].get("template") or {}
    return {"template": {**shared, **(pool["spec"].get("template") or {})}}


def _strimzi_pod(part: str, spec: Document) -> Document:
    """Return the pod template that Strimzi makes of a part's own template; it adds nothing to a context given there."""
    template = spec.get("template") or {}
    pod = template.get("pod") or {}
    containers = [
        {"name": name, "securityContext": (template.get(name) or {}).get("securityContext")}
        for name in _STRIMZI_PARTS[part]
    ]
    return {"metadata": pod.get("metadata"), "spec": {**pod, "containers": containers}}

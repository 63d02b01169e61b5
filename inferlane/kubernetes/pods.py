"""What every pod of ours is: one unprivileged process that is probed for progress and given time to drain."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from inferlane.kubernetes.names import KEYS_FOLDER, KEYS_SECRET, Document

if TYPE_CHECKING:
    from inferlane.config import Settings

# The user that the image makes.
USER_ID = 10_001
SECRETS = "inferlane-secrets"
# Beside the drain: leaving the groups, closing the clients, a slow machine.
STOP_MARGIN_S = 15
# The router drains its data path, then its Faust app has its own deadline to leave the outcome group.
ROUTER_STOP_MARGIN_S = STOP_MARGIN_S + 15
# Until every node has heard that this pod takes no more connections.
PRESTOP_S = 5
# Where the process looks is not where the person that renders does; the API key is for clients.
_LOCAL = frozenset({"INFERLANE_MODELS_DIR", "INFERLANE_STATE_DIR"})
_SECRET = frozenset({"INFERLANE_KAFKA_SASL_PASSWORD"})


def grace_period_s(settings: "Settings", component: str) -> int:
    """Return how long a pod has from SIGTERM (for the API, from before it) to its end, in seconds."""
    margin = {"router": ROUTER_STOP_MARGIN_S, "api": STOP_MARGIN_S + PRESTOP_S}.get(component, STOP_MARGIN_S)
    return int(settings.drain_deadline_s) + margin


def environment(settings: "Settings", component: str) -> list[Document]:
    """Return what was chosen as a container's env; what holds a password comes out of a Secret."""
    others = "INFERLANE_OPS_" if component == "api" else "INFERLANE_API_"
    chosen = {
        name: value
        for name, value in settings.environment().items()
        if name not in _LOCAL and not name.startswith(others)
    }
    secret = _SECRET | ({"INFERLANE_REDIS_URL"} if urlsplit(settings.redis_url).password else set())
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRETS, "key": name}}}
        if name in secret
        else {"name": name, "value": value}
        for name, value in chosen.items()
    ]


def pod_spec(
    settings: "Settings", *, component: str, image: str, args: list[str], resources: Document, port: tuple[str, int]
) -> Document:
    """Return the pod that runs `args`; `port` is where it is probed and scraped, with its name."""
    container: Document = {
        "name": "inferlane",
        "image": image,
        "args": args,
        "env": environment(settings, component),
        "ports": [{"name": port[0], "containerPort": port[1]}],
        "resources": resources,
        "startupProbe": probe("/livez", port[0], period_s=2, failures=60),
        # Three in a row: one slow answer of a busy worker is no reason to end it.
        "livenessProbe": probe("/livez", port[0], period_s=10, failures=3),
        "readinessProbe": probe("/readyz", port[0], period_s=5, failures=2),
        "securityContext": unprivileged(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
    }
    volumes: list[Document] = [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    if component == "api":
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": PRESTOP_S}}}
        container["volumeMounts"].append({"name": "api-keys", "mountPath": KEYS_FOLDER, "readOnly": True})
        volumes.append({"name": "api-keys", "secret": {"secretName": KEYS_SECRET}})
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_period_s(settings, component),
        "securityContext": pod_security(USER_ID),
        "containers": [container],
        "volumes": volumes,
    }


def probe(path: str, port: str, *, period_s: int, failures: int) -> Document:
    """Return an HTTP probe that gives up after `period_s` times `failures`."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


# What the Pod Security level `restricted`, which the namespace enforces, asks of a container and of a pod.
RESTRICTED_CONTAINER: Document = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
RESTRICTED_POD: Document = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def unprivileged() -> Document:
    """Return the security context of a container of ours: restricted, and its root file system stays as it is."""
    return {**RESTRICTED_CONTAINER, "readOnlyRootFilesystem": True}


def pod_security(user: int) -> Document:
    """Return the security context of a pod of ours: restricted, as a user that has a number."""
    return {**RESTRICTED_POD, "runAsUser": user, "runAsGroup": user, "fsGroup": user}


def resources(*, cpu: str, memory: str, memory_limit: str) -> Document:
    """Return requests and limits; no limit on CPU, which would stall the event loop in the middle of a batch."""
    parts: dict[str, Any] = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory_limit}}
    return parts

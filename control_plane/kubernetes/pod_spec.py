"""The pods of all services: environment, probes, resources, security and grace period."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from control_plane.broker_acls import Service, user_name
from control_plane.kubernetes.deployment_plan import (
    CA_FILE,
    CERTIFICATE_FILE,
    KAFKA_CA_SECRET,
    KAFKA_CLIENT_FOLDER,
    KAFKA_CLIENT_SECRET,
    KAFKA_FOLDER,
    KEY_FILE,
    KEYS_FOLDER,
    KEYS_SECRET,
    OTHER_KAFKA_CA_SECRET,
    OTHER_STORE_CA_SECRET,
    STORE_FOLDER,
    STORE_SECRET,
    STORE_TLS_SECRET,
    STORE_USER,
    DeploymentPlan,
    Document,
)
from inferlane.runtime.redis.url import holds_password

if TYPE_CHECKING:
    from inferlane.runtime.settings import KafkaSettings

# The user that the image makes.
USER_ID = 10_001


SECRETS = "inferlane-secrets"


# Beside the drain: leaving the groups, closing the clients, a slow machine.
STOP_MARGIN_S = 15


# The router drains its data path, then its Faust app has its own deadline to leave the outcome group.
ROUTER_STOP_MARGIN_S = STOP_MARGIN_S + 15


# Until every node has heard that this pod takes no more connections.
PRESTOP_S = 5


# Files and addresses of this machine, and of the processes that `inferlane up` starts on it: no pod has them.
_LOCAL = frozenset(
    {
        "INFERLANE_API_PEERS",
        "INFERLANE_API_PROCESSES",
        "INFERLANE_API_SSL_CAFILE",
        "INFERLANE_API_URL",
        "INFERLANE_ARRIVALS_DIR",
        "INFERLANE_DASHBOARD_HOST",
        "INFERLANE_DASHBOARD_PORT",
        "INFERLANE_MODELS_DIR",
        "INFERLANE_STATE_DIR",
    }
)


_PROMETHEUS_URL = "INFERLANE_PROMETHEUS_URL"
_PROMETHEUS_TOKEN = "INFERLANE_PROMETHEUS_TOKEN"  # noqa: S105 - the name of a setting
# The router asks it, and the API refuses a check of it where there is none.
_PROMETHEUS_USERS = frozenset({Service.API, Service.ROUTER})
_SECRET = frozenset({"INFERLANE_KAFKA_SASL_PASSWORD", "INFERLANE_FEEDBACK_SECRET"})


# Loading the settings has put these into INFERLANE_REDIS_URL.
_IN_THE_URL = frozenset({"INFERLANE_REDIS_USERNAME", "INFERLANE_REDIS_PASSWORD"})


API_TLS_SECRET = "inferlane-api-tls"  # noqa: S105 - the name of a secret, not one
API_TLS_FOLDER = "/etc/inferlane/tls"
_CERTIFICATE = {
    f"INFERLANE_{port}_SSL_{kind}": file
    for port in ("API", "GRPC")
    for kind, file in (("CERTFILE", CERTIFICATE_FILE), ("KEYFILE", KEY_FILE))
}


CONTAINER_NAME = "inferlane"


KEYS_VARIABLE, KEYS_VOLUME = "INFERLANE_API_KEYS_FILE", "api-keys"


PASSWORD = "password"  # noqa: S105 - the key of a password in a Secret


def grace_period_s(kafka: "KafkaSettings", component: str) -> int:
    """Return the termination grace period of a pod in seconds; the API's includes the wait before SIGTERM."""
    margin = {"router": ROUTER_STOP_MARGIN_S, "api": STOP_MARGIN_S + PRESTOP_S}.get(component, STOP_MARGIN_S)
    return int(kafka.drain_deadline_s) + margin


def environment(plan: "DeploymentPlan", component: str) -> list[Document]:
    """Return the settings as a container's env; values with a password come from a Secret."""
    settings = plan.settings
    if component != "api":
        others: tuple[str, ...] = ("INFERLANE_API_", "INFERLANE_GRPC_")
    else:
        others = () if plan.has_api_tls else ("INFERLANE_OPS_",)
    chosen: dict[str, Document] = {
        name: {"value": value}
        for name, value in settings.environment().items()
        if name not in _LOCAL | _IN_THE_URL | _CERTIFICATE.keys() and not name.startswith(others)
    }
    if component not in _PROMETHEUS_USERS:
        chosen.pop(_PROMETHEUS_URL, None)
    secret = _SECRET | _urls_with_password(settings.store.redis_url, settings.rollouts.prometheus_url)
    chosen |= {name: secret_value(SECRETS, name) for name in secret & chosen.keys()}
    if plan.has_users:
        user = user_name(settings.stack.names, Service(component))
        chosen["INFERLANE_KAFKA_SASL_USERNAME"] = {"value": user}
        # As Strimzi makes the Secret of a KafkaUser.
        chosen["INFERLANE_KAFKA_SASL_PASSWORD"] = secret_value(user, PASSWORD)
    if plan.runs_store:
        chosen["INFERLANE_REDIS_USERNAME"] = {"value": STORE_USER}
        chosen["INFERLANE_REDIS_PASSWORD"] = secret_value(STORE_SECRET, PASSWORD)
    if component == "api" and plan.has_api_tls:
        chosen |= {name: {"value": f"{API_TLS_FOLDER}/{file}"} for name, file in _CERTIFICATE.items()}
    if component == Service.WEBHOOKS:
        # It calls whom a client names, and needs no store.
        chosen = {name: value for name, value in chosen.items() if not name.startswith("INFERLANE_REDIS_")}
    if component == Service.ROUTER and settings.rollouts.prometheus_token is not None:
        # `environment()` holds it back, for no other service asks Prometheus.
        chosen[_PROMETHEUS_TOKEN] = secret_value(SECRETS, _PROMETHEUS_TOKEN)
    return [{"name": name, **chosen[name]} for name in sorted(chosen)]


def _urls_with_password(redis_url: str, prometheus_url: str) -> set[str]:
    is_secret = {
        "INFERLANE_REDIS_URL": holds_password(redis_url),
        _PROMETHEUS_URL: "@" in urlsplit(prometheus_url).netloc,
    }
    return {name for name, holds in is_secret.items() if holds}


def secret_value(secret: str, key: str) -> Document:
    """Return the source of a value that lies in a Secret."""
    return {"valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def pod_spec(
    plan: "DeploymentPlan", *, component: str, args: list[str], resources: Document, port: tuple[str, int]
) -> Document:
    """Return the pod that runs `args`; `port` is the name and number that is probed and scraped."""
    pod = shell_spec(plan, component=component, resources=resources)
    (container,) = pod["containers"]
    container |= {
        "args": args,
        "ports": [{"name": port[0], "containerPort": port[1]}],
        "startupProbe": probe("/livez", port[0], period_s=2, failures=60),
        # Three in a row: one slow answer of a busy worker is no reason to end it.
        "livenessProbe": probe("/livez", port[0], period_s=10, failures=3),
        "readinessProbe": probe("/readyz", port[0], period_s=5, failures=2),
    }
    if component == "api":
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": PRESTOP_S}}}
        mount_secret(pod, KEYS_VOLUME, KEYS_FOLDER, KEYS_SECRET)
        if plan.has_api_tls:
            mount_secret(pod, "api-tls", API_TLS_FOLDER, API_TLS_SECRET, items=[CERTIFICATE_FILE, KEY_FILE])
    return {**pod, "terminationGracePeriodSeconds": grace_period_s(plan.settings.kafka, component)}


def shell_spec(plan: "DeploymentPlan", *, component: str, resources: Document) -> Document:
    """Return a pod with our image and the component's credentials of broker and store, without a command."""
    container: Document = {
        "name": CONTAINER_NAME,
        "image": plan.image,
        "env": environment(plan, component),
        "resources": resources,
        "securityContext": unprivileged(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
    }
    pod: Document = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(USER_ID),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    if plan.settings.kafka.ssl_cafile is not None:
        authority = KAFKA_CA_SECRET if plan.runs_kafka else OTHER_KAFKA_CA_SECRET
        mount_secret(pod, "kafka-ca", KAFKA_FOLDER, authority, items=[CA_FILE])
    if plan.settings.kafka.ssl_certfile is not None:
        pair = [CERTIFICATE_FILE, KEY_FILE]
        mount_secret(pod, "kafka-client", KAFKA_CLIENT_FOLDER, KAFKA_CLIENT_SECRET, items=pair)
    if plan.settings.store.redis_ssl_cafile is not None:
        # The authority alone: the key of the store is the store's.
        authority = STORE_TLS_SECRET if plan.runs_store else OTHER_STORE_CA_SECRET
        mount_secret(pod, "store-ca", STORE_FOLDER, authority, items=[CA_FILE])
    return pod


def mount_secret(pod: Document, name: str, folder: str, secret: str, *, items: list[str] | None = None) -> None:
    """Mount a Secret, or these items of it, into the only container of the pod."""
    source: Document = {"secretName": secret}
    if items:
        source["items"] = [{"key": item, "path": item} for item in items]
    pod["volumes"].append({"name": name, "secret": source})
    pod["containers"][0]["volumeMounts"].append({"name": name, "mountPath": folder, "readOnly": True})


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
    """Return the security context of a container: restricted, with a read-only root file system."""
    return {**RESTRICTED_CONTAINER, "readOnlyRootFilesystem": True}


def pod_security(user: int) -> Document:
    """Return the security context of a pod: restricted, with a numeric user."""
    return {**RESTRICTED_POD, "runAsUser": user, "runAsGroup": user, "fsGroup": user}


def resources(*, cpu: str, memory: str, memory_limit: str) -> Document:
    """Return requests and limits; no limit on CPU, which would stall the event loop in the middle of a batch."""
    parts: dict[str, Any] = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory_limit}}
    return parts

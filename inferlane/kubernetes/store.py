"""Valkey: one replica that keeps its data and refuses a write rather than forget a result."""

from inferlane.kubernetes.names import STORE, Document, document, labels
from inferlane.kubernetes.plan import STORE_PORT, Plan
from inferlane.kubernetes.pods import pod_security, resources, unprivileged

IMAGE = "valkey/valkey:8-trixie"
_USER_ID = 999
_PING = {"exec": {"command": ["valkey-cli", "ping"]}, "periodSeconds": 10, "timeoutSeconds": 3}


def store_documents(plan: Plan) -> list[Document]:
    """Return the StatefulSet and its Service."""
    selector = labels("store", "valkey")
    metadata = {"name": STORE, "namespace": plan.namespace, "labels": selector}
    container = {
        "name": "valkey",
        "image": IMAGE,
        "args": [
            *("valkey-server", "--dir", "/data", "--appendonly", "yes", "--save", ""),
            # A refused write stops a commit and nothing is lost; an evicted result would be.
            *("--maxmemory", "384mb", "--maxmemory-policy", "noeviction"),
            # Inside a network policy that lets our own pods in alone; with a password: docs/connections.md.
            *("--protected-mode", "no"),
        ],
        "ports": [{"name": "valkey", "containerPort": STORE_PORT}],
        "resources": resources(cpu="100m", memory="512Mi", memory_limit="768Mi"),
        "livenessProbe": {**_PING, "failureThreshold": 6},
        "readinessProbe": {**_PING, "failureThreshold": 2},
        "securityContext": unprivileged(),
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "serviceName": STORE,
        "replicas": 1,
        "selector": {"matchLabels": selector},
        "template": {
            "metadata": {"labels": selector},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": pod_security(_USER_ID),
                "terminationGracePeriodSeconds": 30,
                "containers": [container],
            },
        },
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
            }
        ],
    }
    port = {"name": "valkey", "port": STORE_PORT, "targetPort": "valkey"}
    service = document("v1", "Service", metadata, spec={"selector": selector, "ports": [port]})
    return [document("apps/v1", "StatefulSet", metadata, spec=spec), service]

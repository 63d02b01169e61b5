"""What things are called on the cluster, and the labels by which they find each other."""

import hashlib
import re
from typing import Any

Document = dict[str, Any]
"""One Kubernetes object, as its YAML would be read."""

PART_OF = "inferlane"
API = "inferlane-api"
STORE = "inferlane-valkey"
# The operator calls the Service of this cluster inferlane-kafka-bootstrap.
KAFKA = "inferlane"
KAFKA_NODES = "nodes"
# Strimzi makes the first; for another broker it is made by hand.
KAFKA_CA_SECRET = f"{KAFKA}-cluster-ca-cert"
OTHER_KAFKA_CA_SECRET = "inferlane-kafka-ca"  # noqa: S105 - the name of a secret, not one
KAFKA_FOLDER = "/etc/inferlane/kafka"
KAFKA_AUTHENTICATION = "inferlane-kafka"
STORE_SECRET = "inferlane-store"  # noqa: S105 - as above
STORE_TLS_SECRET = "inferlane-store-tls"  # noqa: S105 - as above
STORE_USER = "inferlane"
STORE_FOLDER = "/etc/inferlane/store"
CA_FILE = "ca.crt"
KEYS_SECRET = "inferlane-api-keys"  # noqa: S105 - the name of a secret, not one
KEYS_FOLDER = "/etc/inferlane/keys"
KEYS_FILE = "keys.toml"

# Where the operators are by the instructions of their own projects.
KEDA_NAMESPACE = "keda"
STRIMZI_NAMESPACE = "strimzi"
MONITORING_NAMESPACE = "monitoring"

# One for one, so that different names stay different.
_NOT_IN_NAMES = re.compile(r"[^a-z0-9.-]")
# RFC 1035 labels, and the values of labels, which the name of a pool is too.
_MAX_CHARS, _DIGEST_CHARS = 63, 10


def object_name(text: str) -> str:
    """Return the text as Kubernetes takes names: lower case letters, digits, dots and dashes."""
    return _NOT_IN_NAMES.sub("-", text.lower()).strip("-.")


def service_name(model: str, version: str, *, default_model: str) -> str:
    """Return the name of a pool's Deployment; the default model's go by the version alone."""
    kept = version if model == default_model else f"{model}-{version}"
    return within_label(object_name(f"inference-service-{kept}").replace(".", "-"), of=f"{model}/{version}")


def within_label(name: str, *, of: str) -> str:
    """Return the name if a label can hold it, else its head and a digest of what it stands for: none is cut alike."""
    if len(name) <= _MAX_CHARS:
        return name
    digest = hashlib.sha256(of.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: _MAX_CHARS - _DIGEST_CHARS - 1].rstrip('-._')}-{digest}"


def labels(component: str, instance: str) -> dict[str, str]:
    """Return what selects the pods of one deployment; `instance` is the pool's name on every stack."""
    return {
        "app.kubernetes.io/name": PART_OF,
        "app.kubernetes.io/part-of": PART_OF,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/instance": instance,
    }


def kafka_labels() -> dict[str, str]:
    """Return what the Strimzi operator puts on the pods of our cluster, and wants on its topics and users."""
    return {"strimzi.io/cluster": KAFKA}


def document(api_version: str, kind: str, metadata: Document, **rest: Any) -> Document:
    """Return an object with its parts in the usual order."""
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}

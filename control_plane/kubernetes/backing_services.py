"""Kafka (cluster, users and topics of the Strimzi operator) and Valkey (one replica, `noeviction`, with a password)."""

import hashlib

from control_plane.broker_acls import Right, rights_by_service, user_name
from control_plane.kubernetes.deployment_plan import (
    KAFKA,
    KAFKA_NODES,
    KAFKA_PORT,
    STORE,
    STORE_PORT,
    STORE_SECRET,
    STORE_TLS_SECRET,
    STORE_USER,
    DeploymentPlan,
    Document,
    document,
    kafka_labels,
    labels,
    object_name,
)
from control_plane.kubernetes.pod_spec import (
    PASSWORD,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    pod_security,
    resources,
    unprivileged,
)
from control_plane.topic_admin import topic_specs
from inferlane.contracts.naming import Names

_API = "kafka.strimzi.io/v1"
_WEEK_MINUTES = 7 * 24 * 60
_OPERATOR_SIZE = {"cpu": "50m", "memory": "256Mi", "memory_limit": "512Mi"}


def cluster_documents(plan: DeploymentPlan) -> list[Document]:
    """Return a Kafka cluster of one node (three in production) with TLS, users and ACLs."""
    metadata = {"name": KAFKA, "namespace": plan.namespace}
    replicas = plan.settings.kafka.replication_factor
    cluster = document(
        _API,
        "Kafka",
        metadata,
        spec={
            "kafka": {
                # Group 0 owns the volume: the image's user has that group and no other.
                "template": _template({**RESTRICTED_POD, "fsGroup": 0}, ("kafkaContainer", "initContainer")),
                "listeners": [
                    {
                        "name": "tls",
                        "port": KAFKA_PORT,
                        "type": "internal",
                        "tls": True,
                        "authentication": {"type": "scram-sha-512"},
                    }
                ],
                "authorization": {"type": "simple"},
                "config": {
                    "auto.create.topics.enable": False,
                    "default.replication.factor": replicas,
                    "min.insync.replicas": max(1, replicas - 1),
                    "offsets.topic.replication.factor": replicas,
                    "transaction.state.log.replication.factor": replicas,
                    "transaction.state.log.min.isr": max(1, replicas - 1),
                    # Longer than the topics' retention, or a pool that slept would start over.
                    "offsets.retention.minutes": _WEEK_MINUTES,
                },
            },
            "entityOperator": {
                **{name: {"resources": resources(**_OPERATOR_SIZE)} for name in ("topicOperator", "userOperator")},
                "template": _template(RESTRICTED_POD, ("topicOperatorContainer", "userOperatorContainer")),
            },
        },
    )
    nodes = document(
        _API,
        "KafkaNodePool",
        {"name": KAFKA_NODES, "namespace": plan.namespace, "labels": kafka_labels()},
        spec={
            "replicas": replicas,
            "roles": ["controller", "broker"],
            "storage": {
                "type": "jbod",
                "volumes": [{"id": 0, "type": "persistent-claim", "size": "10Gi", "deleteClaim": False}],
            },
            "resources": resources(cpu="500m", memory="1Gi", memory_limit="2Gi"),
        },
    )
    return [cluster, nodes]


def _template(pod: Document, containers: tuple[str, ...]) -> Document:
    """Return a template that passes the namespace's Pod Security level; Strimzi's own contexts do not."""
    contexts = {name: {"securityContext": RESTRICTED_CONTAINER} for name in containers}
    return {"pod": {"securityContext": pod}, **contexts}


def topic_documents(plan: DeploymentPlan) -> list[Document]:
    """Return a KafkaTopic for each topic that the code uses, with its partitions and settings."""
    return [
        document(
            _API,
            "KafkaTopic",
            {"name": object_name(spec.name), "namespace": plan.namespace, "labels": kafka_labels()},
            spec={
                "topicName": spec.name,
                "partitions": spec.partitions,
                "replicas": plan.settings.kafka.replication_factor,
                "config": {key: int(value) if value.isdigit() else value for key, value in spec.config.items()},
            },
        )
        for spec in topic_specs(plan.settings.kafka, plan.settings.stack.names, plan.settings.webhooks, plan.versions)
    ]


def user_documents(plan: DeploymentPlan) -> list[Document]:
    """Return a KafkaUser per service with its rights; Strimzi generates the passwords."""
    names = plan.settings.stack.names
    return [
        document(
            _API,
            "KafkaUser",
            {"name": user_name(names, service), "namespace": plan.namespace, "labels": kafka_labels()},
            spec={
                "authentication": {"type": "scram-sha-512"},
                "authorization": {"type": "simple", "acls": [_acl(right) for right in rights]},
            },
        )
        for service, rights in rights_by_service(names, plan.granted).items()
    ]


def _acl(right: Right) -> Document:
    resource = {"type": str(right.resource), "name": right.name, "patternType": "literal"}
    return {"resource": resource, "operations": [str(operation) for operation in right.operations]}


IMAGE = "valkey/valkey:8-trixie"
USERS_FILE = "users.acl"
USERS_FOLDER = "/etc/valkey/users"
TLS_FOLDER = "/etc/valkey/tls"
_USER_ID = 999
# What the services, `doctor` and nobody else of ours use; docs/connections.md shows the line, and a test holds it.
_COMMANDS = (
    "-@all +get +mget +set +del +expire +hset +hgetall +hincrby +hincrbyfloat +zadd +zrange +zrevrange +zrangebyscore "
    "+zremrangebyscore +zremrangebyrank +multi +exec "
    "+watch +unwatch +discard +publish +subscribe +unsubscribe +evalsha +script|load +ping +hello +auth +select +info "
    "+client|setinfo +client|setname"
)
_PROBE_USER = "probe"


def user_lines(names: Names, secret: str) -> list[str]:
    """Return the lines of the store's `aclfile`. `secret` is `>password`, or `#` and its SHA-256 in hexadecimal.

    The user of the probes has no password and may ask nothing but whether the store lives.
    """
    return [
        "user default off resetpass -@all",
        f"user {_PROBE_USER} on nopass -@all +ping",
        f"user {STORE_USER} on {secret} ~{names.prefix}:* &{names.prefix}:* {_COMMANDS}",
    ]


def secret_document(names: Names, *, namespace: str, password: str) -> Document:
    """Return the Secret of store and services: the password, and the store's users with its digest."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    lines = user_lines(names, f"#{digest}")
    return document(
        "v1",
        "Secret",
        {"name": STORE_SECRET, "namespace": namespace},
        stringData={PASSWORD: password, USERS_FILE: "".join(f"{line}\n" for line in lines)},
    )


def store_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the StatefulSet, its Service and its disruption budget; nothing if the store is external."""
    if not plan.runs_store:
        return []
    selector = labels("store", "valkey")
    metadata = {"name": STORE, "namespace": plan.namespace, "labels": selector}
    spec = {
        "serviceName": STORE,
        "replicas": 1,
        "selector": {"matchLabels": selector},
        "template": {"metadata": {"labels": selector}, "spec": _pod(plan)},
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
            }
        ],
    }
    port = {"name": "valkey", "port": STORE_PORT, "targetPort": "valkey"}
    service = document("v1", "Service", metadata, spec={"selector": selector, "ports": [port]})
    # It may be moved: its data go with it, and commits wait meanwhile. A budget of 0 would stop the drain of its node.
    budget = document(
        "policy/v1",
        "PodDisruptionBudget",
        metadata,
        spec={"maxUnavailable": 1, "selector": {"matchLabels": selector}},
    )
    return [document("apps/v1", "StatefulSet", metadata, spec=spec), service, budget]


def store_arguments(plan: DeploymentPlan) -> list[str]:
    """Return the command of the store."""
    plain = ["--port", str(STORE_PORT)]
    encrypted = [
        *("--port", "0", "--tls-port", str(STORE_PORT), "--tls-auth-clients", "no"),
        *("--tls-cert-file", f"{TLS_FOLDER}/tls.crt", "--tls-key-file", f"{TLS_FOLDER}/tls.key"),
        *("--tls-ca-cert-file", f"{TLS_FOLDER}/ca.crt"),
    ]
    return [
        *("valkey-server", "--dir", "/data", "--appendonly", "yes", "--save", ""),
        # A refused write stops a commit and nothing is lost; an evicted result would be.
        *("--maxmemory", "384mb", "--maxmemory-policy", "noeviction"),
        *("--aclfile", f"{USERS_FOLDER}/{USERS_FILE}"),
        *(encrypted if plan.has_store_tls else plain),
    ]


def _pod(plan: DeploymentPlan) -> Document:
    secrets = {
        "users": (USERS_FOLDER, {"secretName": STORE_SECRET, "items": [{"key": USERS_FILE, "path": USERS_FILE}]})
    }
    if plan.has_store_tls:
        secrets["tls"] = (TLS_FOLDER, {"secretName": STORE_TLS_SECRET})
    mounts = [{"name": name, "mountPath": folder, "readOnly": True} for name, (folder, _) in secrets.items()]
    # `-e`: an answer that is an error, such as that it still loads its data, fails the probe.
    ping = [
        "valkey-cli",
        "-e",
        "-p",
        str(STORE_PORT),
        "--user",
        _PROBE_USER,
        "--pass",
        _PROBE_USER,
        "--no-auth-warning",
    ]
    tls = ["--tls", "--cacert", f"{TLS_FOLDER}/ca.crt"] if plan.has_store_tls else []
    asked = {"exec": {"command": [*ping, *tls, "ping"]}, "periodSeconds": 10, "timeoutSeconds": 3}
    container = {
        "name": "valkey",
        "image": IMAGE,
        "args": store_arguments(plan),
        "ports": [{"name": "valkey", "containerPort": STORE_PORT}],
        "resources": resources(cpu="100m", memory="512Mi", memory_limit="768Mi"),
        # Reading 384 MB of its log back takes seconds; a slow disk gets five minutes.
        "startupProbe": {**asked, "periodSeconds": 5, "failureThreshold": 60},
        "livenessProbe": {**asked, "failureThreshold": 6},
        "readinessProbe": {**asked, "failureThreshold": 2},
        "securityContext": unprivileged(),
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, *mounts],
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(_USER_ID),
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
        "volumes": [{"name": name, "secret": source} for name, (_, source) in secrets.items()],
    }

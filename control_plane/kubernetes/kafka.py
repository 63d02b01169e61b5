"""The cluster, users and topics as resources of the Strimzi operator."""

from control_plane.broker_rights import Right, rights_by_service, user_name
from control_plane.kubernetes.plan import (
    KAFKA,
    KAFKA_NODES,
    KAFKA_PORT,
    Document,
    Plan,
    document,
    kafka_labels,
    object_name,
)
from control_plane.kubernetes.workloads import RESTRICTED_CONTAINER, RESTRICTED_POD, resources
from inferlane.runtime.topics import topic_specs

_API = "kafka.strimzi.io/v1"
_WEEK_MINUTES = 7 * 24 * 60
_OPERATOR_SIZE = {"cpu": "50m", "memory": "256Mi", "memory_limit": "512Mi"}


def cluster_documents(plan: Plan) -> list[Document]:
    """Return a cluster of one node that lets in, with TLS, users that may do what an ACL says; production has three."""
    metadata = {"name": KAFKA, "namespace": plan.namespace}
    replicas = plan.settings.replication_factor
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


def topic_documents(plan: Plan) -> list[Document]:
    """Return a KafkaTopic for each topic that the code uses, with the partitions and settings that it wants."""
    return [
        document(
            _API,
            "KafkaTopic",
            {"name": object_name(spec.name), "namespace": plan.namespace, "labels": kafka_labels()},
            spec={
                "topicName": spec.name,
                "partitions": spec.partitions,
                "replicas": plan.settings.replication_factor,
                "config": {key: int(value) if value.isdigit() else value for key, value in spec.config.items()},
            },
        )
        for spec in topic_specs(plan.settings, plan.versions)
    ]


def user_documents(plan: Plan) -> list[Document]:
    """Return the user of each service with the rights that the plan gives it; Strimzi makes their passwords."""
    names = plan.settings.names
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
        for service, rights in rights_by_service(names, plan.versions).items()
    ]


def _acl(right: Right) -> Document:
    resource = {"type": str(right.resource), "name": right.name, "patternType": "literal"}
    return {"resource": resource, "operations": [str(operation) for operation in right.operations]}

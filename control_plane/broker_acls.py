"""The rights of each service on the broker, as ACLs: what it does and no more, should one be taken over.

The single source of these rights: Strimzi's KafkaUsers, `inferlane acls create` and the table in docs/security.md come
from it, and a test runs the services with exactly these rights on Apache Kafka.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from inferlane.contracts.naming import CALLBACK_STAGES, Lane, Names

# The Kafka client is loaded by whoever writes ACLs: manifests and lists are made without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from inferlane.runtime.settings import KafkaSettings

Version = tuple[str, str]


class Service(StrEnum):
    """A client of the broker that has its own user."""

    API = "api"
    ROUTER = "router"
    WORKER = "worker"
    WEBHOOKS = "webhooks"
    # KEDA, which only reads offsets.
    AUTOSCALER = "autoscaler"
    # Who calls `inferlane topics`, `doctor`, `dead-letters`, `batch` and the live dashboard.
    OPERATOR = "operator"


class Resource(StrEnum):
    """The type of resource that a right applies to."""

    TOPIC = "topic"
    GROUP = "group"


class Operation(StrEnum):
    """An operation. `Read` and `Write` include `Describe` (Kafka's `AclAuthorizer` and `StandardAuthorizer`)."""

    CREATE = "Create"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    READ = "Read"
    WRITE = "Write"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """The operations that are allowed on one resource, by its literal name."""

    resource: Resource
    name: str
    operations: tuple[Operation, ...]


def user_name(names: Names, service: Service) -> str:
    """Return the name of the service's user on the broker, e.g. `inferlane-api`."""
    return f"{names.prefix}-{service}"


def rights_by_service(names: Names, versions: Iterable[Version]) -> Mapping[Service, tuple[Right, ...]]:
    """Return the rights that each service needs for these `(model, version)` pairs, sorted, each resource once.

    A version that is added later needs its rights before its workers start, as it needs its topics.
    """
    return _Granting(names, tuple(versions)).all()


def rights_of_version(names: Names, version: Version) -> Mapping[Service, tuple[Right, ...]]:
    """Return the rights that services have for this version alone: without it, nobody needs them."""
    shared = rights_by_service(names, ())
    return {
        service: tuple(right for right in rights if right not in shared[service])
        for service, rights in rights_by_service(names, [version]).items()
    }


@dataclass(frozen=True, slots=True)
class _Granting:
    names: Names
    versions: tuple[Version, ...]

    def all(self) -> Mapping[Service, tuple[Right, ...]]:
        granted = {
            Service.API: self._api(),
            Service.ROUTER: self._router(),
            Service.WORKER: self._worker(),
            Service.WEBHOOKS: self._webhooks(),
            Service.AUTOSCALER: self._autoscaler(),
            Service.OPERATOR: self._operator(),
        }
        return {service: _merged(rights) for service, rights in granted.items()}

    def _api(self) -> list[Right]:
        names = self.names
        return [
            *_topics([names.ingress[Lane.REQUESTS], names.feedback], Operation.WRITE),
            # Every API follows the splits and rollouts; one that is asked to writes a split or a command.
            *_topics([names.splits, names.rollouts], Operation.READ, Operation.WRITE),
            *_topics([names.catalog], Operation.READ),
            # How much waits, for admission.
            *_topics(self._work_topics([Lane.REQUESTS]), Operation.DESCRIBE),
            *_groups([names.router_group, *self._worker_groups()], Operation.DESCRIBE),
        ]

    def _router(self) -> list[Right]:
        names = self.names
        return [
            *_topics(names.ingress.values(), Operation.READ),
            *_groups([names.router_group, names.outcomes_group, names.feedback_group], Operation.READ),
            *_topics([names.feedback], Operation.READ),
            # A backlog that is moved is read too.
            *_topics(self._work_topics(Lane), Operation.READ, Operation.WRITE),
            *_topics([names.catalog, names.outcomes], Operation.READ),
            # The router that decides on rollouts writes their states and their splits.
            *_topics([names.splits, names.rollouts], Operation.READ, Operation.WRITE),
            *_topics([names.results, names.dead_letters, names.callbacks], Operation.WRITE),
            # What a candidate failed is answered by the stable version after a rollback.
            *_topics([names.dead_letters], Operation.READ),
            # What waits for each version, for its gauges.
            *_groups(self._worker_groups(), Operation.DESCRIBE),
        ]

    def _worker(self) -> list[Right]:
        names = self.names
        return [
            # What a version under trial fails goes to the topic of the version that answers instead.
            *_topics(self._work_topics(Lane), Operation.READ, Operation.WRITE),
            *_groups(self._worker_groups(), Operation.READ),
            # Where the files of a version are that its store lacks.
            *_topics([names.catalog], Operation.READ),
            *_topics([names.results, names.outcomes, names.dead_letters, names.callbacks], Operation.WRITE),
        ]

    def _webhooks(self) -> list[Right]:
        names = self.names
        retries = self._callback_retries()
        return [
            *_topics([names.callbacks, *retries], Operation.READ),
            *_groups([names.webhooks_group(topic) for topic in (names.callbacks, *retries)], Operation.READ),
            *_topics([*retries, names.dead_letters], Operation.WRITE),
        ]

    def _autoscaler(self) -> list[Right]:
        names = self.names
        return [
            *_topics([*names.ingress.values(), *self._work_topics(Lane)], Operation.DESCRIBE),
            *_groups([names.router_group, *self._worker_groups()], Operation.DESCRIBE),
        ]

    def _operator(self) -> list[Right]:
        names = self.names
        shared = [*names.ingress.values(), names.results, names.outcomes, names.dead_letters, names.feedback]
        tables = [names.splits, names.catalog, names.rollouts]
        callbacks = [names.callbacks, *self._callback_retries()]
        created = [*shared, *tables, *callbacks, *self._work_topics(Lane)]
        return [
            # `inferlane doctor` compares their settings.
            *_topics(created, Operation.CREATE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS),
            # `inferlane models add`, `retire` and `default`.
            *_topics([names.catalog], Operation.READ, Operation.WRITE),
            # Replays and bulk jobs; recorded requests for a version under trial, and a backlog that is moved.
            *_topics([*names.ingress.values(), *self._work_topics(Lane)], Operation.READ, Operation.WRITE),
            # Replays of callbacks.
            *_topics([names.callbacks], Operation.WRITE),
            *_topics([names.dead_letters, names.results], Operation.READ),
            *_groups(
                [names.router_group, names.outcomes_group, names.dashboard_group, *self._worker_groups()],
                Operation.DESCRIBE,
            ),
        ]

    def _work_topics(self, lanes: Iterable[Lane]) -> list[str]:
        return [self.names.work_topic(*version, lane) for lane in lanes for version in self.versions]

    def _callback_retries(self) -> list[str]:
        return [self.names.callback_retries(stage) for stage in range(1, CALLBACK_STAGES + 1)]

    def _worker_groups(self) -> list[str]:
        return [self.names.worker_group(*version) for version in self.versions]


def _topics(names: Iterable[str], *operations: Operation) -> list[Right]:
    return [Right(Resource.TOPIC, name, operations) for name in names]


def _groups(names: Iterable[str], *operations: Operation) -> list[Right]:
    return [Right(Resource.GROUP, name, operations) for name in names]


def _merged(rights: Iterable[Right]) -> tuple[Right, ...]:
    """Return one right per resource, without the `Describe` that `Read` or `Write` includes."""
    found: dict[tuple[Resource, str], set[Operation]] = {}
    for right in rights:
        found.setdefault((right.resource, right.name), set()).update(right.operations)
    for operations in found.values():
        if operations & {Operation.READ, Operation.WRITE}:
            operations.discard(Operation.DESCRIBE)
    return tuple(
        Right(resource, name, tuple(sorted(operations))) for (resource, name), operations in sorted(found.items())
    )


# Numbers of Kafka's protocol (org.apache.kafka.common.acl and .resource).
_RESOURCES = {Resource.TOPIC: 2, Resource.GROUP: 3}
_OPERATIONS = {
    Operation.READ: 3,
    Operation.WRITE: 4,
    Operation.CREATE: 5,
    Operation.DESCRIBE: 8,
    Operation.DESCRIBE_CONFIGS: 10,
}
_LITERAL, _ALLOW, _ANY_HOST = 3, 3, "*"


async def grant_rights(kafka: "KafkaSettings", names: "Names", rights: Mapping[Service, Sequence[Right]]) -> int:
    """Create one ACL per right and operation and return their number; existing ACLs are kept.

    Needs a user that may alter the cluster. It removes no rights.

    Raises:
        UnavailableError: the broker does not answer, has no authorizer, or refuses.
    """
    from aiokafka.protocol.admin import CreateAclsRequest

    from control_plane.acl_requests import send_acls

    bindings = _bindings(names, rights)
    await send_acls(kafka, [CreateAclsRequest(*binding) for binding in bindings])
    return len(bindings)


async def revoke_rights(kafka: "KafkaSettings", names: "Names", rights: Mapping[Service, Sequence[Right]]) -> int:
    """Delete the ACL of each right and operation and return how many there were. Others are kept.

    Needs a user that may alter the cluster.

    Raises:
        UnavailableError: the broker does not answer, has no authorizer, or refuses.
    """
    from aiokafka.protocol.admin import DeleteAclsRequest

    from control_plane.acl_requests import send_acls

    return await send_acls(kafka, [DeleteAclsRequest(*binding) for binding in _bindings(names, rights)])


def _bindings(names: Names, rights: Mapping[Service, Sequence[Right]]) -> list[tuple[Any, ...]]:
    """Each ACL in the order of the protocol's fields, which is the same to create one and to delete it."""
    return [
        (
            _RESOURCES[right.resource],
            right.name,
            _LITERAL,
            f"User:{user_name(names, service)}",
            _ANY_HOST,
            _OPERATIONS[operation],
            _ALLOW,
        )
        for service, granted in rights.items()
        for right in granted
        for operation in right.operations
    ]

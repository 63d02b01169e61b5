"""Writing the rights of the services to the broker, as ACLs."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest

from control_plane.broker_rights import Operation, Resource, Right, Service, user_name
from inferlane.runtime.broker_access import client_arguments
from inferlane.runtime.kafka.clients import broker_errors

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

# Numbers of Kafka's protocol (org.apache.kafka.common.acl and .resource).
_RESOURCES = {Resource.TOPIC: 2, Resource.GROUP: 3}
_OPERATIONS = {Operation.READ: 3, Operation.WRITE: 4, Operation.CREATE: 5, Operation.DESCRIBE: 8}
_LITERAL, _ALLOW, _ANY_HOST = 3, 3, "*"


async def grant_rights(settings: "Settings", rights: Mapping[Service, Sequence[Right]]) -> int:
    """Write each right as an ACL and return their number; those that are there already stay as they are.

    Needs a user that may alter the cluster; takes no right away from anybody.

    Raises:
        UnavailableError: the broker does not answer, has no authorizer, or refuses.
    """
    requests = [
        CreateAclsRequest(
            _RESOURCES[right.resource],
            right.name,
            _LITERAL,
            f"User:{user_name(settings.names, service)}",
            _ANY_HOST,
            _OPERATIONS[operation],
            _ALLOW,
        )
        for service, granted in rights.items()
        for right in granted
        for operation in right.operations
    ]
    client = AIOKafkaClient(**client_arguments(settings), request_timeout_ms=settings.kafka_request_timeout_ms)
    with broker_errors(settings.kafka_bootstrap_servers):
        try:
            await client.bootstrap()
            for request in requests:
                await _send(client, request)
        finally:
            await asyncio.shield(client.close())
    return len(requests)


async def _send(client: AIOKafkaClient, request: CreateAclsRequest) -> None:
    response = await client.send(client.get_random_node(), request)
    for code, message in response.creation_responses:
        if code:
            raise for_code(code)(message or "the broker gave no reason")

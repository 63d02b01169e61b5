"""Requests that create or delete ACLs, sent to the broker one by one."""

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, for_code

from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, client_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

    from inferlane.runtime.settings import KafkaSettings


async def send_acls(kafka: "KafkaSettings", requests: "Sequence[CreateAclsRequest | DeleteAclsRequest]") -> int:
    """Send requests and return how many ACLs were deleted.

    Raises:
        UnavailableError: the broker does not answer, has no authorizer, or refuses.
    """
    client = AIOKafkaClient(**client_arguments(kafka), request_timeout_ms=kafka.request_timeout_ms)
    deleted = 0
    with broker_errors(kafka.bootstrap_servers):
        try:
            await client.bootstrap()
            for request in requests:
                deleted += _checked(await _answer(client, request))
        finally:
            await asyncio.shield(client.close())
    return deleted


async def _answer(client: AIOKafkaClient, request: "CreateAclsRequest | DeleteAclsRequest") -> Any:
    try:
        return await client.send(client.get_random_node(), request)
    except KafkaConnectionError as error:
        raise UnavailableError(
            f"the broker closed the connection when it was asked for an ACL ({error}), as one does that has none, such "
            "as the embedded broker. Use Apache Kafka with an authorizer; if it is one, call again."
        ) from error


def _checked(response: Any) -> int:
    """Return how many ACLs an answer says were deleted.

    Raises:
        KafkaError: the broker refused the request.
    """
    deletions = getattr(response, "filter_responses", ())
    for code, message, *_ in (*getattr(response, "creation_responses", ()), *deletions):
        if code:
            raise for_code(code)(message or "the broker gave no reason")
    return sum(len(matching) for _, _, matching in deletions)

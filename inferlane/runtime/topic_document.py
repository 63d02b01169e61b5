"""The AsyncAPI document of a stack, made from its settings."""

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from inferlane import __version__
from inferlane.contracts.asyncapi import asyncapi_document

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings


def topic_document(kafka: "KafkaSettings", names: "Names") -> bytes:
    """Return the document as JSON."""
    protocol = "kafka-secure" if kafka.security_protocol.endswith("SSL") else "kafka"
    return _encoded(names, kafka.bootstrap_servers, protocol)


@lru_cache(maxsize=1)
def _encoded(names: "Names", bootstrap_servers: str, protocol: str) -> bytes:
    servers = [server.strip() for server in bootstrap_servers.split(",")]
    return msgspec.json.encode(asyncapi_document(names, version=__version__, servers=servers, protocol=protocol))

"""The calls of the protocol that describe the server and its models, from what its REST form answers."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from producer_api.grpc_server.protocol_messages import (
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerMetadataResponse,
    parsed,
)
from producer_api.routes.protocol_metadata import describe_server, describe_version, is_served, unpinned_version

if TYPE_CHECKING:
    from models.catalog import ModelVersion
    from producer_api.routes.dependencies import Services

# Of those that the REST form names, the others have no call or no meaning here.
_EXTENSIONS = ("classification", "parameters")

Description = Callable[["Services", bytes], Awaitable[bytes]]


def _version_of(services: "Services", request: Any) -> "ModelVersion":
    if request.version:
        return services.catalog.model(request.name).version(request.version)
    return unpinned_version(services, request.name)


async def server_metadata(_services: "Services", _raw: bytes) -> bytes:
    """The server's name, version and extensions."""
    about = describe_server() | {"extensions": _EXTENSIONS}
    return bytes(ServerMetadataResponse(**about).SerializeToString())


async def model_metadata(services: "Services", raw: bytes) -> bytes:
    """A model's versions, and the tensors of the version that is asked for."""
    version = _version_of(services, parsed(ModelMetadataRequest, raw))
    return bytes(ModelMetadataResponse(**describe_version(services, version)).SerializeToString())


async def model_ready(services: "Services", raw: bytes) -> bytes:
    """Whether a version is served."""
    version = _version_of(services, parsed(ModelReadyRequest, raw))
    return bytes(ModelReadyResponse(ready=await is_served(services, version)).SerializeToString())


DESCRIPTIONS: Mapping[str, Description] = {
    "ServerMetadata": server_metadata,
    "ModelMetadata": model_metadata,
    "ModelReady": model_ready,
}
"""The calls by name."""

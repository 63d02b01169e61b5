"""The messages and calls of the protocol, made from the descriptors of `open_inference.proto`.

They live in a pool of their own: the clients of Triton and KServe register messages of the same names in the default
pool, and one process may hold both.
"""

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as MalformedMessageError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from inferlane.errors import DecodeError, clipped

SERVICE = "inference.GRPCInferenceService"


def _pool_of_all() -> descriptor_pool.DescriptorPool:
    """The protocol's files, and those of the health and reflection services, which reflection describes too."""
    pool = descriptor_pool.DescriptorPool()
    own = files("producer_api.grpc_server").joinpath("open_inference.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(own).file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


POOL = _pool_of_all()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


InferRequest = _message("ModelInferRequest")
InferResponse = _message("ModelInferResponse")
ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyResponse = _message("ServerReadyResponse")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")


def parsed(kind: Any, raw: bytes) -> Any:
    """Return the message of this kind that the bytes are.

    Raises:
        DecodeError: they are no such message.
    """
    try:
        return kind.FromString(raw)
    except MalformedMessageError as error:
        raise DecodeError(
            f"the {len(raw)} bytes of the message are no {kind.DESCRIPTOR.full_name}: {clipped(str(error))}"
        ) from error

"""Calls over gRPC to a running API, through grpcio's own channel and the protocol's messages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from producer_api.grpc_server.protocol_messages import SERVICE, InferRequest, InferResponse

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a call ended: its code, what its details say, and its trailing metadata."""

    code: Any
    message: str
    reason: str
    retry_s: int | None
    about: dict[str, str]
    trailers: dict[str, Any]


def infer_request(rows: np.ndarray = ROW, *, raw: bool = True, model: str = "tiny", **parameters: Any) -> Any:
    """A request for the model `tiny` of `tests.support.fakes.stores`."""
    request = InferRequest(model_name=model)
    tensor = request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    if raw:
        request.raw_input_contents.append(rows.tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    for name, value in parameters.items():
        field = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], field, value)
    return request


class Calls:
    """Calls of one channel."""

    def __init__(self, channel: Any, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.channel = channel
        self._metadata = metadata

    def start(self, method: str, message: bytes, *, timeout_s: float | None = None, **metadata: str) -> Any:
        """Begin a call with these bytes; header names take `_` for `-`."""
        named = (*self._metadata, *((name.replace("_", "-"), value) for name, value in metadata.items()))
        path = method if method.startswith("/") else f"/{SERVICE}/{method}"
        return self.channel.unary_unary(path)(message, timeout=timeout_s, metadata=named)

    async def infer(self, request: Any, *, timeout_s: float | None = None, **metadata: str) -> Any:
        """The response to an infer call that must be answered."""
        raw = await self.start("ModelInfer", request.SerializeToString(), timeout_s=timeout_s, **metadata)
        return InferResponse.FromString(raw)

    async def refused(self, message: Any, *, method: str = "ModelInfer", **options: Any) -> Ended:
        """How a call ended that must not be answered."""
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        return await ended(self.start(method, raw, **options))


async def ended(call: Any) -> Ended:
    """Wait for the end of a call that must not be answered."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        details = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        is_retried = False
        for detail in details.details:
            detail.Unpack(info)
            is_retried |= detail.Unpack(retry)
        return Ended(
            code=error.code(),
            message=error.details() or "",
            reason=info.reason,
            retry_s=retry.retry_delay.seconds if is_retried else None,
            about=dict(info.metadata),
            trailers=trailers,
        )
    raise AssertionError(f"the call was answered: {answer!r}")


@asynccontextmanager
async def calling(
    port: int, *, key: str | None = None, credentials: Any = None, has_own_connection: bool = False
) -> AsyncIterator[Calls]:
    """Open a channel to the port of this machine; channels of a process share a connection unless told otherwise."""
    options = (("grpc.use_local_subchannel_pool", int(has_own_connection)),)
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    address = f"localhost:{port}"
    channel = (
        grpc.aio.insecure_channel(address, options=options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=options)
    )
    async with channel:
        yield Calls(channel, metadata)

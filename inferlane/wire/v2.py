"""Open Inference Protocol V2 requests and responses, as JSON or with binary tensors.

Source: Open Inference Protocol V2 "Inference Request/Response JSON Object" and its "Binary Tensor Data Extension":
the JSON part comes first, `inference-header-content-length` gives its length, and the raw little-endian bytes of
each tensor with `binary_data_size` follow in order.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from inferlane.errors import UNDECODABLE, DecodeError, InvalidInputError
from inferlane.wire.tensors import Tensors, cast_exactly, datatype_of, numpy_dtype


class TensorEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor of the JSON part; `data` is absent when the bytes follow."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Request(msgspec.Struct, frozen=True):
    inputs: list[TensorEntry]
    parameters: dict[str, Any] = {}


class _Response(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[TensorEntry]
    id: str | None = None


_Layout = tuple[tuple[str, str, tuple[int, ...]], ...]

_decode_request = msgspec.json.Decoder(_Request).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_encode = msgspec.json.Encoder().encode

# Headers repeat: the same model and row count give the same JSON part. Bounded, and small parts only, so that
# a producer with ever-changing headers costs us the cache and nothing else.
_CACHED_HEADERS = 1024
_CACHED_HEADER_BYTES = 1024


@lru_cache(maxsize=_CACHED_HEADERS)
def _cached_request(header: bytes) -> _Request:
    return _decode_request(header)


@lru_cache(maxsize=_CACHED_HEADERS)
def _cached_response(header: bytes) -> _Response:
    return _decode_response(header)


def encode_binary_request(tensors: Tensors) -> tuple[bytes, int]:
    """Return the payload and the length of its JSON part; asks for binary outputs."""
    header = _binary_request_header(_layout(tensors))
    return _join(header, tensors), len(header)


@lru_cache(maxsize=_CACHED_HEADERS)
def _binary_request_header(layout: _Layout) -> bytes:
    return _encode({"inputs": _binary_entries(layout), "parameters": {"binary_data_output": True}})


def decode_request(payload: bytes, json_length: int | None) -> tuple[dict[str, np.ndarray], bool]:
    """Return the input tensors and whether binary outputs are wanted. Binary arrays are views, not copies.

    Raises:
        DecodeError: the payload is not a V2 inference request.
    """
    header, body = _split(payload, json_length)
    try:
        request = _cached_request(header) if len(header) <= _CACHED_HEADER_BYTES else _decode_request(header)
    except UNDECODABLE as error:
        raise DecodeError(f"not an Open Inference Protocol V2 request: {error}") from error
    if not request.inputs:
        raise DecodeError("the request has no inputs; name at least one tensor")
    return _read_tensors(request.inputs, body), request.parameters.get("binary_data_output") is True


def encode_response(
    outputs: Tensors, *, model: str, version: str, request_id: str | None = None, binary: bool
) -> tuple[bytes, int | None]:
    """Return the payload and, when `binary`, the length of its JSON part."""
    if binary:
        header = _binary_response_header(model, version, _layout(outputs))
        return _join(header, outputs), len(header)
    entries = [
        TensorEntry(name=name, shape=list(array.shape), datatype=datatype_of(array), data=array.ravel().tolist())
        for name, array in outputs.items()
    ]
    return _encode(_Response(model_name=model, model_version=version, outputs=entries, id=request_id)), None


@lru_cache(maxsize=_CACHED_HEADERS)
def _binary_response_header(model: str, version: str, layout: _Layout) -> bytes:
    return _encode(_Response(model_name=model, model_version=version, outputs=_binary_entries(layout)))


def decode_response(payload: bytes, json_length: int | None) -> dict[str, np.ndarray]:
    """Return the output tensors. Binary arrays are views, not copies.

    Raises:
        DecodeError: the payload is not a V2 inference response.
    """
    header, body = _split(payload, json_length)
    try:
        response = _cached_response(header) if len(header) <= _CACHED_HEADER_BYTES else _decode_response(header)
    except UNDECODABLE as error:
        raise DecodeError(f"not an Open Inference Protocol V2 response: {error}") from error
    return _read_tensors(response.outputs, body)


def _layout(tensors: Tensors) -> _Layout:
    return tuple((name, datatype_of(array), array.shape) for name, array in tensors.items())


def _binary_entries(layout: _Layout) -> list[TensorEntry]:
    return [
        TensorEntry(
            name=name,
            shape=list(shape),
            datatype=datatype,
            parameters={"binary_data_size": math.prod(shape) * numpy_dtype(datatype).itemsize},
        )
        for name, datatype, shape in layout
    ]


def _join(header: bytes, tensors: Tensors) -> bytes:
    return header + b"".join([array.tobytes() for array in tensors.values()])


def _split(payload: bytes, json_length: int | None) -> tuple[bytes, memoryview]:
    if json_length is None:
        return payload, memoryview(b"")
    if not 0 <= json_length <= len(payload):
        raise DecodeError(f"the JSON part is said to be {json_length} bytes, the payload has {len(payload)}")
    return payload[:json_length], memoryview(payload)[json_length:]


def _read_tensors(entries: list[TensorEntry], body: memoryview) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    start = 0
    for entry in entries:
        size_bytes = entry.parameters.get("binary_data_size")
        if size_bytes is None:
            tensors[entry.name] = _from_json(entry)
            continue
        if not isinstance(size_bytes, int) or not 0 <= size_bytes <= len(body) - start:
            raise DecodeError(
                f"tensor {entry.name!r}: binary_data_size is {size_bytes!r}, {len(body) - start} bytes are left"
            )
        tensors[entry.name] = _from_bytes(entry, body[start : start + size_bytes])
        start += size_bytes
    if start != len(body):
        raise DecodeError(f"{len(body) - start} bytes follow the last tensor; binary_data_size must cover them all")
    return tensors


def _from_bytes(entry: TensorEntry, raw: memoryview) -> np.ndarray:
    dtype = numpy_dtype(entry.datatype)
    return _shaped(entry, lambda: np.frombuffer(raw, dtype=dtype))


def _from_json(entry: TensorEntry) -> np.ndarray:
    if not isinstance(entry.data, list):
        raise DecodeError(f"tensor {entry.name!r} has neither a `data` array nor a `binary_data_size`")
    return _shaped(entry, lambda: cast_exactly(np.array(entry.data), entry.datatype, where=f"tensor {entry.name!r}"))


def _shaped(entry: TensorEntry, make: Callable[[], np.ndarray]) -> np.ndarray:
    # numpy would read -1 as "whatever fits"; the protocol has no such size, and every tensor has a row axis.
    if not entry.shape or min(entry.shape) < 0:
        raise DecodeError(f"tensor {entry.name!r}: the shape is not a list of sizes, rows first")
    try:
        return make().reshape(entry.shape)
    except (ValueError, TypeError, OverflowError, InvalidInputError) as error:
        raise DecodeError(f"tensor {entry.name!r} is not {entry.datatype} of its shape: {error}") from error

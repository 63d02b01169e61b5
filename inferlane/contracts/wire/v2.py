"""Open Inference Protocol V2 requests and responses, as JSON or with binary tensors.

Source: Open Inference Protocol V2 "Inference Request/Response JSON Object" and its "Binary Tensor Data Extension":
the JSON part comes first, `inference-header-content-length` gives its length, and the raw little-endian bytes of
each tensor with `binary_data_size` follow in order.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec
import numpy as np

from inferlane.contracts.wire.row_texts import from_base64
from inferlane.contracts.wire.tensor_data import from_bytes, from_json
from inferlane.contracts.wire.tensors import Signature, Tensors, datatype_name, datatype_of, json_values, raw_bytes
from inferlane.contracts.wire.v2_fields import (
    ALL_AS_BYTES,
    ALL_AS_JSON,
    Absent,
    DataSize,
    InputEntry,
    InputParameters,
    OutputEntry,
    OutputRead,
    ResponseForm,
    ResponseHead,
    ResponseRead,
    read_request_head,
)
from inferlane.errors import UNDECODABLE, DecodeError, clipped, quoted


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request. `model` and `version` are those that its body names, None where it names none."""

    tensors: dict[str, np.ndarray]
    form: ResponseForm
    model: str | None = None
    version: str | None = None


# Name, dtype, shape and bytes of each tensor.
_Layout = tuple[tuple[str, np.dtype, tuple[int, ...], int], ...]

_decode_response = msgspec.json.Decoder(ResponseRead).decode
_encode = msgspec.json.Encoder().encode
_NO_NAMES: frozenset[str] = frozenset()

# JSON parts repeat: the same model and row count give the same text. The cache is bounded and takes small parts only,
# so a producer with ever-changing headers makes it useless and does no other harm.
_CACHED_HEADERS = 1024
_CACHED_HEADER_BYTES = 1024


_cached_request = lru_cache(maxsize=_CACHED_HEADERS)(read_request_head)
_cached_response = lru_cache(maxsize=_CACHED_HEADERS)(_decode_response)


def encode_binary_request(tensors: Tensors) -> tuple[bytes, int]:
    """Return the payload and the length of its JSON part; asks for binary outputs."""
    raw = [raw_bytes(array) for array in tensors.values()]
    header = _binary_request_header(_layout(tensors, raw))
    return b"".join([header, *raw]), len(header)


@lru_cache(maxsize=_CACHED_HEADERS)
def _binary_request_header(layout: _Layout) -> bytes:
    return _encode({"inputs": _binary_entries(layout), "parameters": {"binary_data_output": True}})


def decode_request(payload: bytes, json_length: int | None, signature: Signature | None = None) -> InferRequest:
    """Read a request. Binary arrays of numbers are views, not copies.

    In JSON, inputs that take NaN by the signature may be null, "NaN", "Infinity" or "-Infinity".

    Raises:
        DecodeError: the payload is not a V2 inference request, or asks for something that a record cannot ask for.
    """
    header, body = split_payload(payload, json_length)
    try:
        asked = _cached_request(header) if len(header) <= _CACHED_HEADER_BYTES else read_request_head(header)
    except UNDECODABLE as error:
        raise DecodeError(
            f"not an Open Inference Protocol V2 request: {clipped(str(error))}; docs/topics.md has its fields"
        ) from error
    if not asked.inputs:
        raise DecodeError("the request has no inputs; name at least one tensor")
    tensors = read_inputs(asked.inputs, body, signature)
    return InferRequest(tensors=tensors, form=asked.form, model=asked.model, version=asked.version)


def read_inputs(
    entries: Sequence[InputEntry], body: memoryview, signature: Signature | None = None
) -> dict[str, np.ndarray]:
    """Return the tensors of a request. Numbers that are in `body` are views of it.

    Raises:
        DecodeError: the values of a tensor differ from its entry, or `body` holds more than the tensors.
    """

    def allows_nan(name: str) -> bool:
        spec = signature.input(name) if signature is not None else None
        return spec is not None and spec.allow_nan

    return _read_tensors(entries, body, allows_nan, signature.raw_inputs if signature is not None else _NO_NAMES)


def encode_response(
    outputs: Tensors, *, model: str, version: str, request_id: str | None = None, form: ResponseForm = ALL_AS_JSON
) -> tuple[bytes, int | None]:
    """Return the payload and, when any output is binary, the length of its JSON part.

    `request_id` names an answer whose request had no `id` of its own. Numbers that JSON has no form for are the strings
    "NaN", "Infinity" and "-Infinity".
    """
    if form is ALL_AS_BYTES:
        everything = [raw_bytes(array) for array in outputs.values()]
        header = _binary_response_header(model, version, _layout(outputs, everything))
        return b"".join([header, *everything]), len(header)
    asked = {name: outputs[name] for name in form.names} if form.names else outputs
    raw = {name: raw_bytes(array) for name, array in asked.items() if form.is_binary(name)}
    entries = [
        _binary_entry(name, datatype_of(array), array.shape, len(raw[name]))
        if name in raw
        else _json_entry(name, array)
        for name, array in asked.items()
    ]
    header = _encode(ResponseHead(model, version, entries, form.id or request_id))
    return (b"".join([header, *raw.values()]), len(header)) if raw else (header, None)


@lru_cache(maxsize=_CACHED_HEADERS)
def _binary_response_header(model: str, version: str, layout: _Layout) -> bytes:
    return _encode(ResponseHead(model, version, _binary_entries(layout)))


def decode_response(payload: bytes, json_length: int | None) -> dict[str, np.ndarray]:
    """Return the output tensors. Binary arrays of numbers are views, not copies.

    Raises:
        DecodeError: the payload is not a V2 inference response.
    """
    header, body = split_payload(payload, json_length)
    try:
        response = _cached_response(header) if len(header) <= _CACHED_HEADER_BYTES else _decode_response(header)
    except UNDECODABLE as error:
        raise DecodeError(f"not an Open Inference Protocol V2 response: {clipped(str(error))}") from error
    return _read_tensors(response.outputs, body, lambda _: True)


def _layout(tensors: Tensors, raw: Sequence[bytes]) -> _Layout:
    # Of each request and result: a list comprehension takes half of what a generator does.
    return tuple(
        [(name, array.dtype, array.shape, len(own)) for (name, array), own in zip(tensors.items(), raw, strict=True)]
    )


def _binary_entries(layout: _Layout) -> list[OutputEntry]:
    return [_binary_entry(name, datatype_name(dtype), shape, size) for name, dtype, shape, size in layout]


def _binary_entry(name: str, datatype: str, shape: tuple[int, ...], size_bytes: int) -> OutputEntry:
    return OutputEntry(name=name, shape=list(shape), datatype=datatype, parameters=DataSize(size_bytes))


def _json_entry(name: str, array: np.ndarray) -> OutputEntry:
    data = json_values(array.ravel())
    return OutputEntry(name=name, shape=list(array.shape), datatype=datatype_of(array), data=data)


def split_payload(payload: bytes, json_length: int | None) -> tuple[bytes, memoryview]:
    """Return the JSON part, and the bytes that follow it.

    Raises:
        DecodeError: the payload is shorter than the given length of its JSON part.
    """
    if json_length is None:
        return payload, memoryview(b"")
    if not 0 <= json_length <= len(payload):
        raise DecodeError(f"the JSON part is said to be {quoted(json_length)} bytes, the payload has {len(payload)}")
    return payload[:json_length], memoryview(payload)[json_length:]


def _read_tensors(
    entries: Sequence[InputEntry] | Sequence[OutputRead],
    body: memoryview,
    allows_nan: Callable[[str], bool],
    raw_names: frozenset[str] = _NO_NAMES,
) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    start = 0
    for entry in entries:
        name, datatype, shape = entry.name, entry.datatype, entry.shape
        parameters = entry.parameters
        size_bytes = parameters.binary_data_size if isinstance(parameters, DataSize | InputParameters) else None
        if size_bytes is None or isinstance(size_bytes, Absent):
            if isinstance(entry.data, Absent):
                raise DecodeError(f"tensor {quoted(name)} has neither a `data` array nor a `binary_data_size`")
            tensors[name] = from_json(name, datatype, shape, entry.data, allow_nan=allows_nan(name))
            if name in raw_names and datatype == "BYTES":
                tensors[name] = from_base64(tensors[name], f"input {quoted(name)}")
            continue
        if not isinstance(entry.data, Absent):
            raise DecodeError(f"tensor {quoted(name)} has both `data` and a `binary_data_size`; send one of them")
        left_bytes = len(body) - start
        if size_bytes > left_bytes:
            raise DecodeError(f"tensor {quoted(name)}: binary_data_size is {size_bytes}, {left_bytes} bytes are left")
        is_text = name not in raw_names
        tensors[name] = from_bytes(name, datatype, shape, body[start : start + size_bytes], is_text=is_text)
        start += size_bytes
    if start != len(body):
        raise DecodeError(f"{len(body) - start} bytes follow the last tensor; binary_data_size must cover them all")
    return tensors

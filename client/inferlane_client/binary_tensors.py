"""Arrays as binary tensors, and back. numpy is taken where the program has it, and not imported here.

Source: Open Inference Protocol V2, "Inference Request/Response JSON Object"; Triton's "Binary Tensor Data" extension:
the JSON part comes first, and the little-endian bytes of each tensor follow it in order.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferlane_client.answers import read_object, unexpected
from inferlane_client.call_errors import InvalidInput, ProblemDetails
from inferlane_client.request import encode_json

_DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_DATATYPES = {dtype.lstrip("<"): datatype for datatype, dtype in _DTYPES.items()} | {"b1": "BOOL"}
# Text of fixed and of any length, bytes of fixed length, and objects that are either.
_BYTES_KINDS = frozenset("UTSO")
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPrediction:
    """The result of a request with tensors: the numpy array of each output, by its name.

    The arrays of numbers are read-only views of the answer: copy one to change it. Texts are arrays of `str` objects.
    """

    request_id: str
    model: str
    version: str
    outputs: Mapping[str, Any]


def arrays_of(tensors: Any) -> "Mapping[str, Any] | Any":
    """The arrays as they are: one, or a mapping of input names to them.

    Raises:
        InvalidInput: they are no numpy arrays with an axis of rows.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise _invalid(
            f"tensors are numpy arrays, and this program has not imported numpy, so {type(tensors).__name__} is none. "
            "Install and import numpy, or send rows with `predict`"
        )
    each = tensors if isinstance(tensors, Mapping) else {"": tensors}
    if not each:
        raise _invalid("there is no tensor; send an array for each input of the model")
    for name, array in each.items():
        what = f"tensor {name!r}" if name else "the tensor"
        if not isinstance(array, numpy.ndarray):
            raise _invalid(f"{what} is a {type(array).__name__}; send a numpy array")
        if isinstance(array, numpy.ma.MaskedArray):
            raise _invalid(f"{what} has a mask, which a tensor has not; fill it, such as with `filled(numpy.nan)`")
        if array.ndim == 0:
            raise _invalid(f"{what} has no axis; the first one must be that of the rows")
    return tensors


def encode_tensors(tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[bytes, int]:
    """The body of an infer call that asks for binary outputs, and the length of its JSON part.

    Raises:
        InvalidInput: an array holds what no tensor can.
    """
    raw = {name: _raw(name, array) for name, array in tensors.items()}
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": _datatype(name, array),
            "parameters": {"binary_data_size": len(raw[name])},
        }
        for name, array in tensors.items()
    ]
    head = encode_json({"inputs": inputs, "parameters": {"binary_data_output": True, **parameters}})
    return b"".join([head, *raw.values()]), len(head)


def decode_prediction(body: bytes, json_length: str | None) -> TensorPrediction:
    """Read the answer to an infer call; `json_length` is its `Inference-Header-Content-Length`.

    Raises:
        UnexpectedAnswer: it is no answer with binary tensors.
    """
    if json_length is None or not json_length.isdigit() or int(json_length) > len(body):
        raise unexpected(f"its JSON part is said to have {json_length} of {len(body)} bytes; it has no binary tensors")
    document = read_object(body[: int(json_length)])
    start, outputs = int(json_length), {}
    try:
        for output in document["outputs"]:
            size_bytes = int(output["parameters"]["binary_data_size"])
            raw = memoryview(body)[start : start + size_bytes]
            outputs[output["name"]] = _array(output["datatype"], output["shape"], raw)
            start += size_bytes
        named = {"request_id": document["id"], "model": document["model_name"], "version": document["model_version"]}
    except (KeyError, TypeError, ValueError) as error:
        raise unexpected(f"{error!r} where the protocol has another member or length") from error
    if start != len(body):
        raise unexpected(f"its tensors have {start} bytes, and the answer has {len(body)}")
    return TensorPrediction(outputs=outputs, **named)


def _datatype(name: str, array: Any) -> str:
    if array.dtype.kind in _BYTES_KINDS:
        return "BYTES"
    datatype = _DATATYPES.get(f"{array.dtype.kind}{array.dtype.itemsize}")
    if datatype is None:
        raise _invalid(f"tensor {name!r} has the dtype {array.dtype}; send one of {', '.join(_DTYPES)}, text or bytes")
    return datatype


def _raw(name: str, array: Any) -> bytes:
    datatype = _datatype(name, array)
    if datatype != "BYTES":
        raw: bytes = array.astype(_DTYPES[datatype], copy=False).tobytes()
        return raw
    parts = []
    for value in array.ravel().tolist():
        if not isinstance(value, str | bytes):
            raise _invalid(f"tensor {name!r} holds a {type(value).__name__}; an array of objects holds text or bytes")
        encoded = value.encode() if isinstance(value, str) else value
        parts += [len(encoded).to_bytes(_LENGTH_BYTES, "little"), encoded]
    return b"".join(parts)


def _array(datatype: str, shape: list[int], raw: memoryview) -> Any:
    numpy = sys.modules["numpy"]
    if datatype != "BYTES":
        return numpy.frombuffer(raw, dtype=_DTYPES[datatype]).reshape(shape)
    array = numpy.empty(math.prod(shape), dtype=object)
    start = 0
    for index in range(len(array)):
        end = start + _LENGTH_BYTES + int.from_bytes(raw[start : start + _LENGTH_BYTES], "little")
        if end > len(raw):
            raise ValueError(f"string {index} ends after the {len(raw)} bytes of its tensor")
        array[index] = str(raw[start + _LENGTH_BYTES : end], "utf-8")
        start = end
    if start != len(raw):
        raise ValueError(f"the strings have {start} of the {len(raw)} bytes of their tensor")
    return array.reshape(shape)


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput(ProblemDetails(code="invalid_input", title="The tensors cannot be sent", detail=detail))

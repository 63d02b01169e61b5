"""V1 `instances` and `predictions`: JSON rows to arrays, against a signature, and back.

Source: TensorFlow Serving REST API, row format ("instances"). A model with one input takes each row as a (nested)
list, a model with several takes each row as an object with one field for each input.
"""

import math
import threading
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import simdjson

from inferlane.errors import UNDECODABLE, DecodeError, InvalidInputError, PayloadTooLargeError
from inferlane.signature import Signature, TensorSpec
from inferlane.wire.tensors import cast_exactly, numpy_dtype


class _Request(msgspec.Struct):
    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_any = msgspec.json.Decoder().decode
_decode_rows = {
    "f": msgspec.json.Decoder(list[list[float]]).decode,
    "i": msgspec.json.Decoder(list[list[int]]).decode,
    "u": msgspec.json.Decoder(list[list[int]]).decode,
}
_decode_objects = msgspec.json.Decoder(list[dict[str, Any]]).decode

# simdjson's element type for a kind of numpy dtype.
_BUFFER_OF = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}

# Below this, msgspec is faster: building a simdjson document costs 1.5 µs.
_SIMDJSON_FROM_BYTES = 512


class _Parsers(threading.local):
    """A simdjson parser for each thread: it reuses its buffers and must not be shared."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_parsers = _Parsers()


def find_instances(payload: bytes) -> bytes | None:
    """The raw JSON of `instances`, or None when the payload is not a V1 request."""
    try:
        instances = _decode_request(payload).instances
    except UNDECODABLE:
        return None
    return None if isinstance(instances, msgspec.UnsetType) else bytes(instances)


def decode_instances(
    raw: bytes | memoryview, signature: Signature, *, max_rows: int | None = None
) -> dict[str, np.ndarray]:
    """Return one array `(rows, …)` for each input of the signature, finite and in its dtype.

    Raises:
        DecodeError: `raw` is not JSON.
        InvalidInputError: there is no row, or a row does not fit; the message names the first such row.
        PayloadTooLargeError: there are more brackets than `max_rows` rows have. Nothing was parsed: millions of tiny
            lists take seconds, in which an event loop does nothing else.
    """
    if max_rows is not None and len(raw) > max_rows:
        _refuse_brackets_over(raw, signature, max_rows)
    if len(signature.inputs) == 1:
        spec = signature.inputs[0]
        return {spec.name: cast_exactly(_matrix(raw, spec), spec.datatype, where="instances")}
    rows = _decode(_decode_objects, raw, "a list of objects with one field for each input")
    return {
        spec.name: cast_exactly(_column(rows, spec), spec.datatype, where=f"{spec.name} of instances")
        for spec in signature.inputs
    }


def _refuse_brackets_over(raw: bytes | memoryview, signature: Signature, max_rows: int) -> None:
    lists_a_row = sum(_lists_of(spec.row_shape) for spec in signature.inputs)
    objects_a_row = 1 if len(signature.inputs) > 1 else 0
    text = bytes(raw)
    if text.count(b"[") > max_rows * lists_a_row + 1 or text.count(b"{") > max_rows * objects_a_row:
        raise PayloadTooLargeError(
            f"instances hold more lists or objects than {max_rows} rows have, which is the limit; split the request, "
            "use `inferlane batch submit`, or send rows of the model's shape"
        )


def _lists_of(row_shape: tuple[int, ...]) -> int:
    """How many lists the JSON of one row has: one for each element of each axis but the last."""
    return sum(math.prod(row_shape[:axis]) for axis in range(len(row_shape)))


def _matrix(raw: bytes | memoryview, spec: TensorSpec) -> np.ndarray:
    kind = numpy_dtype(spec.datatype).kind
    if len(spec.row_shape) != 1 or kind not in _decode_rows:
        return _from_lists(_decode(_decode_any, raw, f"a list of rows of shape {list(spec.row_shape)}"), spec)
    if len(raw) >= _SIMDJSON_FROM_BYTES:
        fast = _simd_matrix(raw, spec, kind)
        if fast is not None:
            return fast
    # Slower, and the one that says which element is wrong.
    return _from_lists(_decode(_decode_rows[kind], raw, "a list of rows"), spec)


def _simd_matrix(raw: bytes | memoryview, spec: TensorSpec, kind: str) -> np.ndarray | None:
    """The matrix, or None when anything about it is not plainly right."""
    element, dtype = _BUFFER_OF[kind]
    width = spec.row_shape[0]
    try:
        document: Any = _parsers.parser.parse(raw)
        # simdjson flattens whatever is nested: only a bracket a row, and one around them all, is a matrix.
        if any(len(row) != width for row in document) or bytes(raw).count(b"[") != len(document) + 1:
            return None
        flat = np.frombuffer(document.as_buffer(of_type=element), dtype=dtype)
    except (ValueError, TypeError, RuntimeError):
        return None
    return flat.reshape(-1, width) if len(flat) else None


def _decode(decode: Any, raw: bytes | memoryview, wanted: str) -> Any:
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"instances must be {wanted} of numbers: {error}") from error
    except UNDECODABLE as error:
        raise DecodeError(f"instances are not valid JSON: {error}. NaN and Infinity are not JSON.") from error


def _column(rows: list[dict[str, Any]], spec: TensorSpec) -> np.ndarray:
    for index, row in enumerate(rows):
        if spec.name not in row:
            raise InvalidInputError(f"instances[{index}] has no field {spec.name!r}")
    return _from_lists([row[spec.name] for row in rows], spec)


def _from_lists(rows: Any, spec: TensorSpec) -> np.ndarray:
    if not isinstance(rows, list) or not rows:
        raise InvalidInputError("instances is empty; send a list of at least one row")
    try:
        array = np.array(rows)
    except (ValueError, OverflowError):
        array = np.empty(0)
    if array.shape[1:] != spec.row_shape:
        raise InvalidInputError(_shape_fault(rows, spec))
    return array


def _shape_fault(rows: list[Any], spec: TensorSpec) -> str:
    for index, row in enumerate(rows):
        try:
            shape = np.shape(row)
        except ValueError:
            return f"instances[{index}] is ragged; each row must have shape {list(spec.row_shape)}"
        if shape != spec.row_shape:
            return (
                f"instances[{index}] has shape {list(shape)}; "
                f"input {spec.name!r} takes rows of shape {list(spec.row_shape)}"
            )
    return f"each row must have shape {list(spec.row_shape)}"


def encode_predictions(outputs: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> list[Any]:
    """One prediction a row, in TensorFlow Serving's row format: a value, or an object with a field an output."""
    columns = {name: _values(array, classes) for name, array in outputs.items()}
    if len(columns) == 1:
        return next(iter(columns.values()))
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(array: np.ndarray, classes: tuple[str, ...]) -> list[Any]:
    values: list[Any] = array.tolist()
    # A whole number a row, of a model that names its classes, is a class index.
    if classes and array.ndim == 1 and array.dtype.kind == "i":
        return [classes[value] if 0 <= value < len(classes) else value for value in values]
    return values

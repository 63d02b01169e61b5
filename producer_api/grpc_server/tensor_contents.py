"""The values of one tensor in a message: raw bytes, or a list in the field of its datatype.

Source: Open Inference Protocol V2, gRPC, "Tensor Data".
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from inferlane.contracts.wire.tensors import WIDEST, exactly, numpy_dtype
from inferlane.errors import DecodeError, quoted

_FIELD_OF: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def has_field(datatype: str) -> bool:
    """Whether values of the datatype can go as a list; those of FP16 go as raw bytes only."""
    return datatype in _FIELD_OF


def from_contents(name: str, datatype: str, shape: list[int], contents: Any, *, is_text: bool = True) -> np.ndarray:
    """The array of a tensor whose values came as a list. Without `is_text`, BYTES are raw bytes and need not be UTF-8.

    Raises:
        DecodeError: they are in the field of another datatype, more or fewer than the shape has, or out of range.
    """
    dtype, field = numpy_dtype(datatype), _FIELD_OF.get(datatype)
    if field is None:
        raise DecodeError(f"tensor {quoted(name)}: {datatype} has no list of contents; send it in raw_input_contents")
    others = [held.name for held, _ in contents.ListFields() if held.name != field]
    if others:
        raise DecodeError(f"tensor {quoted(name)}: {datatype} goes in {field}, and its contents have {others[0]}")
    values, size = getattr(contents, field), math.prod(shape)
    if len(values) != size:
        raise DecodeError(
            f"tensor {quoted(name)}: {datatype} of shape {shape} has {quoted(size)} values, {field} has {len(values)}"
        )
    if dtype.kind == "T" and not is_text:
        raw = np.empty(size, object)
        raw[:] = list(values)
        return raw.reshape(shape)
    if dtype.kind == "T":
        return np.array(_texts(name, values), dtype).reshape(shape)
    wide = WIDEST[dtype.kind] if field in {"int_contents", "uint_contents"} else dtype
    array = exactly(np.fromiter(values, wide, count=size), dtype)
    if array is None:
        raise DecodeError(f"tensor {quoted(name)}: a value of {field} is out of the range of {datatype}")
    return array.reshape(shape)


def _texts(name: str, values: Any) -> list[str]:
    texts = []
    for index, value in enumerate(values):
        try:
            texts.append(value.decode())
        except UnicodeDecodeError as error:
            raise DecodeError(f"tensor {quoted(name)}: string {index} is no UTF-8 ({error}); send text") from error
    return texts


def fill_contents(contents: Any, datatype: str, array: np.ndarray) -> None:
    """Write the values of the array as a list, in row-major order."""
    values = array.ravel()
    listed = [text.encode() for text in values] if array.dtype.kind == "T" else values.tolist()
    getattr(contents, _FIELD_OF[datatype]).extend(listed)

"""Tensors as named numpy arrays, and the datatypes of the Open Inference Protocol.

Source: Open Inference Protocol V2, "Tensor Data Types".
"""

from collections.abc import Mapping

import numpy as np

from inferlane.errors import DecodeError, InvalidInputError

Tensors = Mapping[str, np.ndarray]
"""Named arrays `(rows, …)`; every array of one request has the same number of rows."""

_NUMPY_OF = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAME_OF = {dtype: name for name, dtype in _NUMPY_OF.items()}


def numpy_dtype(datatype: str) -> np.dtype:
    """The little-endian numpy dtype of a protocol datatype.

    Raises:
        DecodeError: there is none (BYTES is not supported).
    """
    try:
        return _NUMPY_OF[datatype]
    except KeyError:
        raise DecodeError(f"datatype {datatype!r} is not supported; use one of {', '.join(_NUMPY_OF)}") from None


def datatype_of(array: np.ndarray) -> str:
    """The protocol's name for the dtype of `array`."""
    return _NAME_OF[array.dtype.newbyteorder("<")]


def row_count(tensors: Tensors) -> int:
    """Rows of a request: the length of the first axis, the same in each array."""
    return len(next(iter(tensors.values())))


# A sum of squares up to this proves in one pass that every value is finite and in range; most requests do. A NaN or
# a value out of range always exceeds it, and then the exact check decides.
_SAFE_SQUARES = {"FP32": float(np.finfo(np.float32).max) ** 2, "FP64": float(np.finfo(np.float64).max)}


def cast_exactly(array: np.ndarray, datatype: str, *, where: str) -> np.ndarray:
    """Cast what JSON held to a protocol datatype, refusing whatever would change on the way but for rounding.

    numpy would parse a string, count a boolean and cut a fraction; each is more likely a mistake than a number.

    Raises:
        InvalidInputError: the first value that the datatype cannot hold, found at `where`.
        DecodeError: the datatype is not supported.
    """
    dtype = numpy_dtype(datatype)
    if array.dtype == np.float64 and np.vdot(array, array) <= _SAFE_SQUARES.get(datatype, -1.0):
        return array.astype(dtype)
    if array.dtype.kind not in ("b" if dtype.kind == "b" else "iuf"):
        raise InvalidInputError(f"{where} must hold {datatype} values, not {array.dtype}")
    if dtype.kind == "b":
        return array
    if dtype.kind in "iu":
        if array.dtype.kind == "f":
            raise InvalidInputError(f"{where} must hold {datatype} whole numbers, not fractions")
        limits = np.iinfo(dtype)
        bad = (array < limits.min) | (array > limits.max)
    else:
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(array.astype(dtype))
    if bad.any():
        first = tuple(int(index) for index in np.argwhere(bad)[0])
        place = f"{where}[{first[0]}]" if first else where
        raise InvalidInputError(
            f"{place} holds {array[first].item()!r}, which {datatype} cannot; send finite numbers in range"
        )
    return array.astype(dtype)

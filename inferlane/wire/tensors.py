"""Tensors as named numpy arrays, and the datatypes of the Open Inference Protocol.

Source: Open Inference Protocol V2, "Tensor Data Types".
"""

from collections.abc import Mapping

import numpy as np

from inferlane.errors import DecodeError

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

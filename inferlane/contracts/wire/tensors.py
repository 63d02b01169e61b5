"""Tensors as named numpy arrays, and the datatypes of the Open Inference Protocol.

Source: Open Inference Protocol V2, "Tensor Data Types".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from inferlane.errors import DecodeError, quoted

ANY_ROWS, NO_ROW_AXIS = -1, 0

Tensors = Mapping[str, np.ndarray]
"""Named arrays `(rows, …)`; every array of one request has the same number of rows."""

_NUMPY_OF: Mapping[str, Any] = {
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
    # numpy's strings take 16 bytes, and those of a text longer than 15; a Python object takes four times as much.
    "BYTES": np.dtypes.StringDType(),
}
DATATYPES = tuple(_NUMPY_OF)
"""The names of the datatypes that are served."""

# Values are first read into the widest type of their kind, then checked against their own type.
WIDEST: Mapping[str, Any] = MappingProxyType(
    {
        "f": np.dtype("<f8"),
        "i": np.dtype("<i8"),
        "u": np.dtype("<u8"),
        "b": np.dtype("?"),
        "T": _NUMPY_OF["BYTES"],
    }
)
# Raw bytes, such as an image file, are Python objects: numpy's strings hold text only.
_RAW = np.dtype(object)
_NAME_OF: Mapping[Any, str] = {dtype: name for name, dtype in _NUMPY_OF.items()} | {_RAW: "BYTES"}

NOT_FINITE: Mapping[str, float] = MappingProxyType(
    {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": -float("inf")}
)
"""How JSON spells the numbers that it has none for, in results and in inputs that take them.

Source: Protocol Buffers, "JSON Mapping".
"""


def numpy_dtype(datatype: str) -> np.dtype:
    """Return the little-endian numpy dtype of a protocol datatype.

    Raises:
        DecodeError: the protocol has no such datatype.
    """
    try:
        dtype: np.dtype = _NUMPY_OF[datatype]
    except KeyError:
        raise DecodeError(f"datatype {quoted(datatype)} is not supported; use one of {', '.join(_NUMPY_OF)}") from None
    return dtype


def datatype_of(array: np.ndarray) -> str:
    """Return the protocol's name for the dtype of `array`."""
    return datatype_name(array.dtype)


def datatype_name(dtype: np.dtype) -> str:
    """Return the protocol's name for a dtype."""
    return _NAME_OF.get(dtype) or _NAME_OF[dtype.newbyteorder("<")]


def row_count(tensors: Tensors) -> int:
    """Rows of a request: the length of the first axis, the same in each array."""
    return len(next(iter(tensors.values())))


# A sum of squares up to this proves in one pass that every value is in range, as in most requests. A value out of range
# always exceeds it; then the exact check decides.
_SAFE_SQUARES = {dtype: float(np.finfo(dtype).max) ** 2 for dtype in (np.dtype("<f2"), np.dtype("<f4"))}


def exactly(array: np.ndarray, dtype: np.dtype, *, allow_nan: bool = False) -> np.ndarray | None:
    """Cast numbers of the widest type of their kind; None if one would change on the way but for rounding.

    NaN and infinity are kept if `allow_nan`; otherwise they make the result None.
    """
    if dtype == array.dtype:
        return array
    if dtype.kind == "f":
        if np.vdot(array, array) <= _SAFE_SQUARES[dtype]:
            return array.astype(dtype)
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        if allow_nan:
            return cast if (np.isfinite(cast) == np.isfinite(array)).all() else None
        return cast if np.isfinite(cast).all() else None
    if array.size and dtype.kind != "b":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            return None
    return array.astype(dtype)


def raw_bytes(array: np.ndarray) -> bytes:
    """Return the values as binary tensors have them: little-endian numbers; strings in UTF-8, each behind its length.

    Source: Open Inference Protocol V2, "Binary Tensor Data Extension": a length is 4 bytes, little-endian.
    """
    if array.dtype.kind not in "TO":
        return array.tobytes()
    raw = bytearray()
    for value in array.ravel():
        encoded = value if isinstance(value, bytes) else value.encode()
        raw += len(encoded).to_bytes(4, "little")
        raw += encoded
    return bytes(raw)


def json_values(array: np.ndarray) -> list[Any]:
    """The values as JSON has them, nested as they are; those that JSON has no number for are spelled `NOT_FINITE`."""
    values: list[Any] = array.tolist()
    if array.dtype.kind != "f" or are_finite(array):
        return values
    spelled: list[Any] = _spelled(values)
    return spelled


def are_finite(array: np.ndarray) -> bool:
    """Return whether every number is finite."""
    # A finite sum of squares proves that all values are finite, in a third of the time; large squares may overflow.
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def _spelled(value: Any) -> Any:
    if isinstance(value, list):
        return [_spelled(inner) for inner in value]
    if value != value:  # noqa: PLR0124 - what NaN alone is
        return "NaN"
    return {float("inf"): "Infinity", -float("inf"): "-Infinity"}.get(value, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of an input by name: its value where a row has none, and the texts whose index is its value."""

    name: str
    default: float | str | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output: its name, Open Inference Protocol datatype and shape, -1 for the row axis.

    `allow_nan` says that NaN and infinity are values of this input, such as a tree ensemble's missing value.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    # What the graph calls its axes, as many as `shape` has, or none: axes of inputs with one name have one length.
    axes: tuple[str, ...] = ()
    allow_nan: bool = False
    # The fill of rows with a free axis, up to the length of the longest row; None: all rows have one length.
    pad: float | str | None = None
    # The input that this one masks: 1 for the row's own values, 0 for the fill.
    mask_of: str | None = None
    # The names of its columns, where rows may be objects.
    columns: tuple[Column, ...] = ()
    # Whether BYTES are raw bytes, such as an image file, and not text; in JSON they are base64.
    is_binary: bool = False

    @property
    def dtype(self) -> np.dtype:
        """The numpy dtype of its arrays."""
        return _RAW if self.is_binary else numpy_dtype(self.datatype)

    @property
    def is_free(self) -> bool:
        """Whether rows may be of different lengths."""
        return -1 in self.row_shape

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a row may have this shape."""
        return len(shape) == len(self.row_shape) and all(
            axis == length or (axis == -1 and length > 0) for axis, length in zip(self.row_shape, shape, strict=True)
        )

    @property
    def kind(self) -> str:
        """The kind of the datatype, FP, INT, BOOL or BYTES: datatypes of one kind can be converted into one another."""
        return self.datatype.rstrip("0123456789").removeprefix("U")

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: everything after the row axis."""
        return self.shape[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The inputs and outputs of a version, each with the row axis first, as clients see them.

    `batch` is how many rows one run of the graph takes: `ANY_ROWS`, that many, or one without a row axis.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int = ANY_ROWS
    has_free_axes: bool = False
    # The inputs of raw bytes.
    raw_inputs: frozenset[str] = frozenset()

    @classmethod
    def of_graph(
        cls, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], *, has_row_axis: bool = True
    ) -> "Signature":
        """Return what clients see of a graph with these tensors: any number of rows, whatever a run takes."""

        def widened(specs: tuple[TensorSpec, ...], axes_before: int) -> tuple[TensorSpec, ...]:
            return tuple(
                replace(spec, shape=(-1, *spec.shape[axes_before:]), axes=spec.axes and ("", *spec.axes[axes_before:]))
                for spec in specs
            )

        if not has_row_axis:
            return cls._made(widened(inputs, 0), widened(outputs, 0), NO_ROW_AXIS)
        firsts = {spec.shape[:1] for spec in inputs}
        (first,) = firsts if len(firsts) == 1 else ((),)
        if first and first[0] > 0 and all(spec.shape[:1] in {first, (-1,)} for spec in outputs):
            return cls._made(widened(inputs, 1), widened(outputs, 1), first[0])
        return cls._made(inputs, outputs, ANY_ROWS)

    @classmethod
    def _made(cls, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], batch: int) -> "Signature":
        return cls(inputs=inputs, outputs=outputs, batch=batch, has_free_axes=any(spec.is_free for spec in inputs))

    def misfit(self, other: "Signature") -> str | None:
        """Return why no request could fit both signatures, None if some do: the width of numbers is converted."""
        names, others = ({spec.name: spec for spec in signature.inputs} for signature in (self, other))
        if names.keys() != others.keys():
            return f"the inputs are called {', '.join(names)} in one and {', '.join(others)} in the other"
        for name, spec in names.items():
            if (spec.row_shape, spec.kind, spec.is_binary) != (
                others[name].row_shape,
                others[name].kind,
                others[name].is_binary,
            ):
                return (
                    f"input {name!r} takes rows of {spec.datatype} {list(spec.row_shape)} in one and of "
                    f"{others[name].datatype} {list(others[name].row_shape)} in the other"
                )
        return None

    def graph_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape that the graph itself has for one of these tensors: what `of_graph` was given."""
        return spec.shape if self.batch == ANY_ROWS else (self.batch, *spec.row_shape)[self.batch == NO_ROW_AXIS :]

    def graph_axes(self, spec: TensorSpec) -> tuple[str, ...]:
        """Return what the graph calls the axes of `graph_shape`."""
        return spec.axes[self.batch == NO_ROW_AXIS :]

    def input(self, name: str) -> TensorSpec | None:
        """Return the input of that name, None if there is none."""
        return next((spec for spec in self.inputs if spec.name == name), None)


class Embedding(NamedTuple):
    """The input and output of a version that embeds text, and how many numbers an embedding has."""

    input: str
    output: str
    width: int


def embedding_of(signature: Signature) -> Embedding | None:
    """What of a signature embeds text: one text a row in, one vector a row out; None if it does something else."""
    if len(signature.inputs) != 1:
        return None
    (text,) = signature.inputs
    vectors = [spec for spec in signature.outputs if spec.kind == "FP" and len(spec.row_shape) == 1]
    if text.datatype != "BYTES" or text.is_binary or text.row_shape not in {(), (1,)} or len(vectors) != 1:
        return None
    return Embedding(text.name, vectors[0].name, vectors[0].row_shape[0])

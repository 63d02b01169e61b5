"""V1 rows of a model with several inputs: objects with a field for each, to one array for each input."""

import math
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
import simdjson

from inferlane.contracts.wire.json_numbers import Wanted
from inferlane.contracts.wire.json_rows import Filler, document_of, room_for
from inferlane.contracts.wire.tensors import WIDEST, Signature, TensorSpec, exactly, numpy_dtype
from inferlane.errors import UNDECODABLE, InvalidInputError, PayloadTooLargeError, quoted


@lru_cache(maxsize=256)
def wanted_of(spec: TensorSpec) -> Wanted:
    """What rows must hold for this input."""
    return Wanted(
        where="instances", name=f"input {quoted(spec.name)}", datatype=spec.datatype, allow_nan=spec.allow_nan
    )


def rows_of(text: bytes, wanted: str, max_rows: int | None) -> tuple[Any, str | None]:
    document, too_big = document_of(text, "instances")
    if not isinstance(document, simdjson.Array):
        raise InvalidInputError(f"instances is {quoted(document)}; it must be {wanted}")
    if not len(document):
        raise InvalidInputError("instances is empty; send a list of at least one row")
    check_rows(len(document), max_rows)
    return document, too_big


def room(text: bytes, rows: int, spec: TensorSpec) -> np.ndarray:
    """An array for the rows; one row where so short a text cannot hold them all: one of them does not fit then."""
    rows = rows if room_for(text, rows, spec.row_shape) else 1
    return np.empty((rows, *spec.row_shape), numpy_dtype(spec.datatype))


def check_rows(rows: int, max_rows: int | None) -> None:
    if max_rows is not None and rows > max_rows:
        raise PayloadTooLargeError(
            f"{rows} rows in one request, the limit is {max_rows}; split it, or use `inferlane batch submit`"
        )


# Up to this, msgspec's objects are faster; they take up to twenty times the text.
OBJECTS_UP_TO_BYTES = 512 * 1024
_PYTHON_OF: dict[str, Any] = {"f": float, "i": int, "u": int, "b": bool, "T": str}
_NUMBER_OR_NONE: Any = float | None | Literal["NaN", "Infinity", "-Infinity"]


def decode_columns(text: bytes, signature: Signature, max_rows: int | None) -> dict[str, np.ndarray]:
    """Return one array `(rows, …)` for each input.

    Raises:
        DecodeError: the text is not JSON.
        InvalidInputError: there is no row, or a row does not fit; the message names the first such value.
        PayloadTooLargeError: there are more than `max_rows` rows.
    """
    if len(text) <= OBJECTS_UP_TO_BYTES:
        columns = _at_once(text, signature.inputs)
        if columns is not None and (max_rows is None or len(next(iter(columns.values()))) <= max_rows):
            return columns
    # Slower, and the one that says which value is wrong.
    return _one_by_one(text, signature.inputs, max_rows)


def _at_once(text: bytes, specs: tuple[TensorSpec, ...]) -> dict[str, np.ndarray] | None:
    """The columns, or None when anything about them is not plainly right."""
    columns: dict[str, np.ndarray] = {}
    try:
        rows = _decoder_of(specs)(text)
        # Every field is there, so with more quotes than that one is there twice.
        if not rows or text.count(b'"') != 2 * len(rows) * (len(specs) + _strings_a_row(specs)):
            return None
        for index, spec in enumerate(specs):
            column = array_of([getattr(row, f"field{index}") for row in rows], spec)
            if column is None:
                return None
            columns[spec.name] = column
    except (*UNDECODABLE, ValueError, OverflowError):
        return None
    return columns


def _strings_a_row(specs: tuple[TensorSpec, ...]) -> int:
    return sum(math.prod(spec.row_shape) for spec in specs if spec.datatype == "BYTES")


def array_of(rows: list[Any], spec: TensorSpec) -> np.ndarray | None:
    """The rows as an array of the input's dtype and shape; None if they do not make one.

    Raises:
        ValueError, OverflowError: they are of different lengths, or out of range.
    """
    dtype = numpy_dtype(spec.datatype)
    array = exactly(np.array(rows, WIDEST[dtype.kind]), dtype, allow_nan=spec.allow_nan)
    if array is None or array.shape[1:] == spec.row_shape:
        return array
    return array.reshape(-1, 1) if spec.row_shape == (1,) and array.ndim == 1 else None


def row_type(spec: TensorSpec) -> Any:
    """The Python type of one row of the input, for msgspec."""
    of: Any = _PYTHON_OF[numpy_dtype(spec.datatype).kind]
    if of is float and spec.allow_nan:
        of = _NUMBER_OR_NONE
    if spec.row_shape == (1,):
        # A bare value is a row of one.
        return list[of] | of
    for _ in spec.row_shape:
        of = list[of]
    return of


@lru_cache(maxsize=64)
def _decoder_of(specs: tuple[TensorSpec, ...]) -> Any:
    row = msgspec.defstruct(
        "Row",
        [(f"field{index}", row_type(spec)) for index, spec in enumerate(specs)],
        rename={f"field{index}": spec.name for index, spec in enumerate(specs)},
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]  # made just above


def _one_by_one(text: bytes, specs: tuple[TensorSpec, ...], max_rows: int | None) -> dict[str, np.ndarray]:
    document, too_big = rows_of(text, "a list of objects with one field for each input", max_rows)
    columns = [(spec.name, room(text, len(document), spec), Filler(wanted_of(spec), too_big=too_big)) for spec in specs]
    for index, row in enumerate(document):
        if not isinstance(row, simdjson.Object):
            raise InvalidInputError(
                f"instances[{index}] is {quoted(row)}; each row must be an object with the fields {_names(specs)}"
            )
        if len(row) != len(specs):
            _refuse_fields(row, index, specs)
        for name, array, filler in columns:
            try:
                value = row[name]
            except KeyError:
                raise InvalidInputError(
                    f"instances[{index}] has no field {name!r}; its fields must be {_names(specs)}"
                ) from None
            filler.row(array, min(index, len(array) - 1), value, place=f"instances[{index}].{name}")
    return {name: array for name, array, _ in columns}


def _refuse_fields(row: Any, index: int, specs: tuple[TensorSpec, ...]) -> None:
    """Name a field that is no input, or there twice; one that is missing is found where it is read."""
    left = {spec.name for spec in specs}
    for name in row:
        if name not in left:
            raise InvalidInputError(
                f"instances[{index}] has the field {quoted(name)}, which is there twice or is no input; its fields "
                f"must be {_names(specs)}"
            )
        left.remove(name)


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)

"""Read JSON that the fast path refused, one value at a time: return its values, or say what is wrong and where."""

import re
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from math import prod
from typing import Any, Literal

import msgspec
import numpy as np
import simdjson

from inferlane.contracts.wire.json_numbers import EXACT_INTEGERS, ExpectedNumbers
from inferlane.contracts.wire.tensors import NOT_FINITE, WIDEST, TensorSpec, exactly, numpy_dtype
from inferlane.errors import UNDECODABLE, DecodeError, InvalidInputError, PayloadTooLargeError, clipped, quoted

# Whole strings and numbers of valid JSON. The group holds those that simdjson may refuse: whole numbers of more than 64
# bits, and exponents too large for a double.
_TOKEN = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"'
    rb"|(-?(?:\d{19,}(?:\.\d+)?(?:[eE][-+]?\d+)?|\d+(?:\.\d+)?[eE]\+?\d{3,}))(?![-+.\deE])"
    rb"|-?\d[-+.\deE]*",
    re.DOTALL,
)
_64_BITS = range(-(2**63), 2**64)
_MOST_DIGITS = 20
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def document_of(text: bytes, what: str) -> tuple[Any, str | None]:
    """Return the parsed text, and the first number in it that no double holds: such are empty objects in the document.

    Raises:
        DecodeError: the text is not JSON.
    """
    try:
        return _whole(text), None
    except (ValueError, RuntimeError) as error:
        first = error
    too_big: list[str] = []

    def as_double(token: bytes) -> bytes:
        number = float(token)
        if abs(number) < float("inf"):
            return repr(number).encode()
        if not too_big:
            too_big.append(clipped(token.decode(), limit_chars=40))
        return b"{}"

    try:
        _check_json(text)
        return _whole(_replaced(text, as_double)), next(iter(too_big), None)
    except (*UNDECODABLE, ValueError, RuntimeError) as error:
        reason = error if isinstance(error, UNDECODABLE) else first
        raise DecodeError(
            f"{what} is not valid JSON: {clipped(str(reason))}. NaN and Infinity are not JSON."
        ) from error


def _replaced(text: bytes, replace: Callable[[bytes], bytes]) -> bytes:
    """Return the text with the numbers replaced that simdjson refuses."""
    replaced = bytearray()
    done = 0
    for found in _TOKEN.finditer(text):
        token = found[1]
        if token is not None and not _fits(token):
            replaced += text[done : found.start()]
            replaced += replace(token)
            done = found.end()
    replaced += text[done:]
    return bytes(replaced)


def _fits(token: bytes) -> bool:
    """Whether it is a whole number of 64 bits."""
    # Longer digits are not looked at one by one: reading a number takes the square of its length.
    return len(token) <= _MOST_DIGITS and token.lstrip(b"-").isdigit() and int(token) in _64_BITS


def _whole(text: bytes) -> Any:
    # A parser for each document: a parser must not be reused while its document is referenced, even by an error.
    return simdjson.Parser().parse(text)


class Filler:
    """Fills an array from a parsed document one value at a time, and names the first that does not fit."""

    def __init__(self, wanted: ExpectedNumbers, *, too_big: str | None) -> None:
        self._wanted = wanted
        self._dtype = numpy_dtype(wanted.datatype)
        self._too_big = too_big
        self._limits: Any = _limits_of(self._dtype)

    def rows(self, array: np.ndarray, rows: Any) -> None:
        """Fill `array` from a list of the same length.

        Raises:
            InvalidInputError: the first row or value that does not fit.
        """
        for index, row in enumerate(rows):
            self.row(array, index, row, place=f"{self._wanted.where}[{index}]")

    def row(self, array: np.ndarray, index: int, row: Any, *, place: str) -> None:
        """Fill one row of `array`; a bare number is a row of one.

        Raises:
            InvalidInputError: the first value that does not fit.
        """
        row_shape = array.shape[1:]
        if not row_shape or (row_shape == (1,) and not isinstance(row, simdjson.Array | simdjson.Object)):
            held = self.held(row)
            if held is None:
                raise self.fault(row, place)
            array[index] = held
            return
        if not isinstance(row, simdjson.Array) or len(row) != row_shape[0]:
            said = f"has shape {shape_of(row)}" if isinstance(row, simdjson.Array) else f"is {self._said(row)}"
            raise InvalidInputError(f"{place} {said}; {self._wanted.name} takes rows of shape {list(row_shape)}")
        self._fill(array[index], row, place)

    def _fill(self, array: np.ndarray, values: Any, place: str) -> None:
        if not isinstance(values, simdjson.Array) or len(values) != len(array):
            said = f"has shape {shape_of(values)}" if isinstance(values, simdjson.Array) else f"is {self._said(values)}"
            raise InvalidInputError(f"{place} {said}; {self._wanted.name} has {list(array.shape)} there")
        for index, value in enumerate(values):
            if array.ndim > 1:
                self._fill(array[index], value, f"{place}[{index}]")
            elif (held := self.held(value)) is not None:
                array[index] = held
            else:
                raise self.fault(value, f"{place}[{index}]")

    def fault(self, value: Any, place: str) -> InvalidInputError:
        """Return the error of a value that the datatype cannot hold."""
        return InvalidInputError(
            f"{place} holds {self._said(value)}; {self._wanted.name} takes {self._wanted.datatype}: {self._remedy()}"
        )

    def held(self, value: Any) -> Any:
        """`value` as the datatype holds it, None if it cannot."""
        kind = self._dtype.kind
        if kind in "bT" or isinstance(value, bool):
            return value if isinstance(value, {"b": bool, "T": str}.get(kind, ())) else None
        if kind == "f" and self._wanted.allow_nan and (value is None or isinstance(value, str)):
            return NOT_FINITE.get("NaN" if value is None else value)
        if not isinstance(value, int | float):
            return None
        if kind == "f":
            # A value up to half a step above the largest is still rounded down to it.
            with np.errstate(over="ignore"):
                return value if abs(value) <= self._limits.max or np.isfinite(self._dtype.type(value)) else None
        if isinstance(value, float):
            if not value.is_integer() or abs(value) >= EXACT_INTEGERS:
                return None
            value = int(value)
        return value if self._limits.min <= value <= self._limits.max else None

    def _said(self, value: Any) -> str:
        if self._too_big is not None and isinstance(value, simdjson.Object) and not len(value):
            return self._too_big
        return f"{quoted(value)}, a string" if isinstance(value, str) else quoted(value)

    def _remedy(self) -> str:
        if self._dtype.kind == "T":
            return "send a string"
        if self._dtype.kind == "b":
            return "send true or false"
        if self._dtype.kind == "f" and self._wanted.allow_nan:
            return 'send numbers in its range, null or "NaN" for a missing value, "Infinity" or "-Infinity"'
        if self._dtype.kind == "f":
            return "send finite numbers in its range; it takes no missing values (`allow_nan` in version.toml)"
        return f"send whole numbers from {self._limits.min} to {self._limits.max}"


def _limits_of(dtype: np.dtype) -> Any:
    if dtype.kind in "bT":
        return None
    return np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)


def room_for(text: bytes, rows: int, row_shape: Sequence[int]) -> bool:
    """Return whether text of this length can hold so many rows: each value takes a character and a comma at least."""
    return rows * prod(row_shape) <= len(text) // 2 + 1


def shape_of(values: Any) -> list[int]:
    """Return the shape of a nested list as far as its first elements tell."""
    shape: list[int] = []
    while isinstance(values, simdjson.Array) and len(shape) < 8:  # noqa: PLR2004 - deeper says nothing more
        shape.append(len(values))
        values = values[0] if len(values) else None
    return shape


# Up to this, msgspec's objects are faster; they take up to twenty times the text.
OBJECTS_UP_TO_BYTES = 512 * 1024
_PYTHON_OF: dict[str, Any] = {"f": float, "i": int, "u": int, "b": bool, "T": str}
_NUMBER_OR_NONE: Any = float | None | Literal["NaN", "Infinity", "-Infinity"]


def array_of(rows: list[Any], spec: TensorSpec) -> np.ndarray | None:
    """Return the rows as an array of the input's dtype and shape; None if they do not make one.

    Raises:
        ValueError, OverflowError: rows have different lengths, or a value is out of range.
    """
    dtype = numpy_dtype(spec.datatype)
    array = exactly(np.array(rows, WIDEST[dtype.kind]), dtype, allow_nan=spec.allow_nan)
    if array is None or array.shape[1:] == spec.row_shape:
        return array
    return array.reshape(-1, 1) if spec.row_shape == (1,) and array.ndim == 1 else None


def row_type(spec: TensorSpec) -> Any:
    """Return the Python type of one row of the input, for msgspec."""
    of: Any = _PYTHON_OF[numpy_dtype(spec.datatype).kind]
    if of is float and spec.allow_nan:
        of = _NUMBER_OR_NONE
    if spec.row_shape == (1,):
        # A bare value is a row of one.
        return list[of] | of
    for _ in spec.row_shape:
        of = list[of]
    return of


@lru_cache(maxsize=256)
def wanted_of(spec: TensorSpec) -> ExpectedNumbers:
    """Return what rows must hold for this input."""
    name = f"input {quoted(spec.name)}"
    return ExpectedNumbers(where="instances", name=name, datatype=spec.datatype, allow_nan=spec.allow_nan)


def rows_of(text: bytes, wanted: str, max_rows: int | None) -> tuple[Any, str | None]:
    document, too_big = document_of(text, "instances")
    if not isinstance(document, simdjson.Array):
        raise InvalidInputError(f"instances is {quoted(document)}; it must be {wanted}")
    if not len(document):
        raise InvalidInputError("instances is empty; send a list of at least one row")
    check_rows(len(document), max_rows)
    return document, too_big


def check_rows(rows: int, max_rows: int | None) -> None:
    if max_rows is not None and rows > max_rows:
        raise PayloadTooLargeError(
            f"{rows} rows in one request, the limit is {max_rows}; split it, or use `inferlane batch submit`"
        )


def names_of(specs: Sequence[TensorSpec]) -> str:
    """Return the names of inputs, for a message."""
    return ", ".join(repr(spec.name) for spec in specs)


def known_fields(row: Any, place: str, known: Container[str], otherwise: Callable[[], str]) -> dict[str, Any]:
    """Return the fields of an object.

    Raises:
        InvalidInputError: a field is not `known`, or is repeated; `otherwise` ends the message.
    """
    held: dict[str, Any] = {}
    for name in row:
        if name not in known or name in held:
            raise InvalidInputError(f"{place} has the field {quoted(name)}, which is there twice or is {otherwise()}")
        held[name] = row[name]
    return held


def fields_of(row: Any, place: str, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return the fields of a row, one for each input; a mask may be left out.

    Raises:
        InvalidInputError: the row is not an object, or a field is unknown, repeated or missing.
    """
    if not isinstance(row, simdjson.Object):
        raise InvalidInputError(
            f"{place} is {quoted(row)}; each row must be an object with the fields {names_of(specs)}"
        )
    known = {spec.name for spec in specs}
    held = known_fields(row, place, known, lambda: f"no input; its fields must be {names_of(specs)}")
    for spec in specs:
        if spec.name not in held and spec.mask_of is None:
            raise InvalidInputError(f"{place} has no field {spec.name!r}; its fields must be {names_of(specs)}")
    return held

"""Rows as objects with a field for each column of a table, for a model that takes one matrix of numbers."""

from typing import Any

import numpy as np
import simdjson

from inferlane.contracts.wire.json_rows import OBJECTS_UP_TO_BYTES, Filler, known_fields, rows_of, wanted_of
from inferlane.contracts.wire.tensors import Column, TensorSpec, numpy_dtype
from inferlane.errors import InvalidInputError, PayloadTooLargeError, quoted

_SPACE = b" \t\r\n"
# The most names in a message.
_NAMED = 12


def holds_objects(text: bytes) -> bool:
    """Return whether the first row of this text is an object."""
    return text[:1024].lstrip(_SPACE)[1:].lstrip(_SPACE)[:1] == b"{"


def decode_named_columns(text: bytes, spec: TensorSpec, max_rows: int | None) -> np.ndarray:
    """Return the matrix of rows that are objects; columns with a default may be left out, or null.

    Raises:
        DecodeError: the text is not JSON.
        InvalidInputError: a row has an unknown column or lacks one, or a value that does not fit; the message names it.
        PayloadTooLargeError: the text or the number of rows is over the limit.
    """
    if len(text) > OBJECTS_UP_TO_BYTES:
        raise PayloadTooLargeError(
            f"{len(text)} bytes of rows with named columns, the limit is {OBJECTS_UP_TO_BYTES}; split the request, or "
            "send rows as lists"
        )
    document, too_big = rows_of(text, "a list of objects with a field for each column", max_rows)
    filler = Filler(wanted_of(spec), too_big=too_big)
    array = np.empty((len(document), len(spec.columns)), numpy_dtype(spec.datatype))
    known = {column.name for column in spec.columns}
    for index, row in enumerate(document):
        place = f"instances[{index}]"
        if not isinstance(row, simdjson.Object):
            raise InvalidInputError(f"{place} is {quoted(row)}; the rows before it are objects, so send an object")
        held = known_fields(row, place, known, lambda: f"no column; the columns are: {_listed(sorted(known))}")
        for number, column in enumerate(spec.columns):
            array[index, number] = _value(held.get(column.name), column, filler, f"{place}.{column.name}")
    return array


def _value(value: Any, column: Column, filler: Filler, place: str) -> Any:
    if value is None and column.default is not None:
        value = column.default
    if column.categories and value is not None:
        if value not in column.categories:
            raise InvalidInputError(
                f"{place} holds {quoted(value)}; the column {column.name!r} takes one of: {_listed(column.categories)}"
            )
        return column.categories.index(value)
    held = filler.held(value)
    if held is None:
        if value is None:
            raise InvalidInputError(
                f"{place} is missing, and version.toml has no default for the column {column.name!r}; send a value"
            )
        raise filler.fault(value, place)
    return held


def _listed(names: Any) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, list(names)[:_NAMED])) + more

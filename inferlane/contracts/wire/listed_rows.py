"""What V1 rows of every kind have in common: a list of them, its limit, and room for what they hold."""

from functools import lru_cache
from typing import Any

import numpy as np
import simdjson

from inferlane.contracts.signature import TensorSpec
from inferlane.contracts.wire.filling import document_of, room_for
from inferlane.contracts.wire.reading import Wanted
from inferlane.contracts.wire.tensors import numpy_dtype
from inferlane.errors import InvalidInputError, PayloadTooLargeError
from inferlane.quoting import quoted


@lru_cache(maxsize=256)
def wanted_of(spec: TensorSpec) -> Wanted:
    """What rows must hold for this input."""
    return Wanted(where="instances", name=f"input {quoted(spec.name)}", datatype=spec.datatype)


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

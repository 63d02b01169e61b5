"""Columns of numbers as the tensors of a model, with no Python object for each value."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from control_plane.bulk.csv_columns import CsvColumns
from inferlane.contracts.wire.json_numbers import EXACT_INTEGERS, ExpectedNumbers, numbers
from inferlane.contracts.wire.tensors import Signature, TensorSpec, exactly, numpy_dtype

# Delimiters that are no part of a number.
_DELIMITERS = ",;\t| "
_NUMBERS = b"0123456789.-,\n"
_MINUS_ZERO = re.compile(rb"-0+(?:\.0*)?(?![\d.])")
# The kinds of numpy's dtypes that are numbers.
_KINDS = "fiu"
_WIDEST = ExpectedNumbers(where="", name="", datatype="FP64")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnTensors:
    """Which tensor each column belongs to: `places` has the columns of each input, in the order of its values."""

    inputs: tuple[TensorSpec, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, columns: CsvColumns, signature: Signature) -> Self | None:
        """The tensors of these columns; None where a column may hold text, or may be left out of the file."""
        if columns.hold_text or any(numpy_dtype(spec.datatype).kind not in _KINDS for spec in signature.inputs):
            return None
        found = {column.name: place for place, column in enumerate(columns.columns)}
        if not columns.are_named:
            places: tuple[tuple[int, ...], ...] = (tuple(range(len(columns.columns))),)
        elif len(signature.inputs) == 1:
            names = [column.name for column in signature.inputs[0].columns]
            if found.keys() != set(names):
                return None
            places = (tuple(found[name] for name in names),)
        else:
            places = tuple((found[spec.name],) for spec in signature.inputs)
        return cls(inputs=signature.inputs, places=places)

    @staticmethod
    def of_matrix(spec: TensorSpec, matrix: np.ndarray) -> dict[str, np.ndarray] | None:
        """Return the tensor of rows `(rows, width)` of numbers; None if a value would change but for rounding."""
        widest = _widest(matrix, spec.dtype) if spec.dtype.kind in _KINDS else None
        array = None if widest is None else _cast(widest, spec)
        return None if array is None else {spec.name: array}

    def tensors(self, columns: Sequence[np.ndarray]) -> dict[str, np.ndarray] | None:
        """Return the tensors of columns `(rows,)` of numbers; None if a value would change but for rounding."""
        made = {}
        for spec, places in zip(self.inputs, self.places, strict=True):
            dtype = numpy_dtype(spec.datatype)
            own = [_widest(columns[place], dtype) for place in places]
            if any(column is None for column in own):
                return None
            array = _cast(np.stack(own, axis=1), spec)  # type: ignore[arg-type]  # none of them is None
            if array is None:
                return None
            made[spec.name] = array.reshape(-1, *spec.row_shape)
        return made


def _cast(array: np.ndarray, spec: TensorSpec) -> np.ndarray | None:
    """Return numbers of the widest type of their kind in that of the input; None if one would change but for rounding.

    As `exactly`, whose sum of squares BLAS computes in threads for blocks of this size: on busy cores they spin.
    """
    if spec.dtype.kind != "f":
        return exactly(array, spec.dtype)
    with np.errstate(over="ignore"):
        cast = array.astype(spec.dtype)
    fits = np.isfinite(cast) | ~np.isfinite(array) if spec.allow_nan else np.isfinite(cast)
    return cast if fits.all() else None


def _widest(column: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Return the column in the widest type of the kind of `dtype`; None if a number would change."""
    if dtype.kind == "f":
        return column.astype(np.float64)
    # Whole numbers may have a fraction of zero: many writers always write one.
    if column.dtype.kind == "f" and not ((np.abs(column) < EXACT_INTEGERS) & (np.trunc(column) == column)).all():
        return None
    widest = np.dtype(np.uint64 if dtype.kind == "u" else np.int64)
    # As Python's numbers: numpy would compare an unsigned and a signed one as floats.
    limits = np.iinfo(widest)
    if column.size and not limits.min <= int(column.min()) <= int(column.max()) <= limits.max:
        return None
    return column.astype(widest)


def reader_of_lines(
    columns: CsvColumns | None, signature: Signature, delimiter: str
) -> Callable[[Sequence[str]], dict[str, np.ndarray] | None]:
    """Return what reads lines whose fields are all numbers as JSON spells them at once; it gives None for others.

    None as well for numbers that JSON reads differently than CSV: minus zero, and whole numbers past 2^53.
    """
    made = None if columns is None or delimiter not in _DELIMITERS else ColumnTensors.of(columns, signature)
    if made is None or columns is None:
        return lambda _: None
    width, own = len(columns.columns), delimiter.encode()
    foreign = _NUMBERS.replace(b",", own)

    def read(lines: Sequence[str]) -> dict[str, np.ndarray] | None:
        text = "".join(lines).encode().removesuffix(b"\n")
        if not text or text.translate(None, foreign) or (b"-0" in text and _MINUS_ZERO.search(text)):
            return None
        listed = b"[[%b]]" % text.replace(own, b",").replace(b"\n", b"],[")
        matrix = numbers(listed, (len(lines), width), _WIDEST)
        if matrix is None or not (np.abs(matrix) < EXACT_INTEGERS).all():
            return None
        return made.tensors(list(matrix.T))

    return read

"""The rows of a Parquet file: its columns are those of the model, by name or in order.

Columns of numbers become tensors as they are; other rows, and those with a missing value, the JSON of a row each.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from control_plane.bulk.column_tensors import ColumnTensors
from control_plane.bulk.csv_columns import CsvColumn, CsvColumns, columns_of
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import ConfigurationError, quoted

# Rows in memory at a time: a row group of a large file may hold millions.
_ROWS_AT_ONCE = 4_096
_NEEDED = (
    "reading Parquet needs 'pyarrow', which is not installed. Install the extra: pip install 'inferlane[parquet]', "
    "or give the rows as .csv or .jsonl"
)


# Dates become text, and raw bytes base64, as in JSON elsewhere.
_encode = msgspec.json.Encoder(decimal_format="number").encode


class ParquetRows:
    """The file and which of its columns is which value of the model."""

    def __init__(self, path: Path, signature: Signature, *, missing: float | None) -> None:
        """Read the schema; `missing` stands for missing numbers.

        Raises:
            ConfigurationError: it is no Parquet file, or its columns are not those of the model.
        """
        self._path = path
        self._signature = signature
        self._missing = missing
        self._file = _opened(path)
        self.names: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        if len(set(self.names)) < len(self.names):
            raise ConfigurationError(
                f"{path} names a column twice: {', '.join(self.names)}. Give each a name of its own"
            )
        self._columns: CsvColumns | None = None
        self._made: ColumnTensors | None = None
        # Whether a row is the value of the only column, such as a list of numbers.
        self._is_whole = len(signature.inputs) == len(self.names) == 1 and self._holds_lists()
        self._of_numbers = {field.name for field in self._file.schema_arrow if _holds_numbers(field.type)}
        if self._is_whole:
            return
        if any(len(spec.row_shape) > 1 or spec.row_shape == (-1,) for spec in signature.inputs) or self._holds_lists():
            self._check_names({spec.name for spec in signature.inputs})
            return
        self._columns = columns_of(path, signature)
        if self._columns.are_named:
            self._columns = self._columns.in_order_of(self.names, path)
        elif len(self._columns.columns) != len(self.names):
            raise ConfigurationError(
                f"{path} has {len(self.names)} columns ({quoted(', '.join(self.names), limit_chars=100)}), and a row "
                f"of the model {len(self._columns.columns)} values. Write those columns alone, in their order"
            )
        self._made = ColumnTensors.of(self._columns, signature)

    def tables(self, *, rows_per_chunk: int) -> Iterator[Any]:
        """Read the file in pyarrow tables of a multiple of `rows_per_chunk` rows, the last one of any number.

        Raises:
            ConfigurationError: the file cannot be read on.
        """
        import pyarrow as pa  # noqa: PLC0415 - an extra

        held: list[Any] = []
        rows = 0
        try:
            for batch in self._file.iter_batches(batch_size=max(_ROWS_AT_ONCE, rows_per_chunk)):
                held.append(batch)
                rows += batch.num_rows
                if whole := rows - rows % rows_per_chunk:
                    table = pa.Table.from_batches(held)
                    yield table.slice(0, whole)
                    held, rows = table.slice(whole).to_batches(), rows - whole
            if rows:
                yield pa.Table.from_batches(held)
        except (OSError, pa.ArrowException) as error:
            raise ConfigurationError(f"cannot read {self._path}: {error}. Write the file again.") from error

    def tensors(self, table: Any) -> dict[str, np.ndarray] | None:
        """Return the tensors of all rows of a table, or None if one of them is for `rows` to read."""
        if self._is_whole:
            matrix = _matrix_of(table.column(0).combine_chunks())
            if matrix is None or self._signature.inputs[0].row_shape != matrix.shape[1:]:
                return None
            return ColumnTensors.of_matrix(self._signature.inputs[0], matrix)
        if self._columns is None or self._made is None:
            return None
        arrays: list[np.ndarray] = []
        for column, values in zip(self._columns.columns, table.columns, strict=True):
            array = _array_of(values.combine_chunks())
            if array is None or (array := self._filled(array, column)) is None:
                return None
            arrays.append(array)
        return self._made.tensors(arrays)

    def _filled(self, array: np.ndarray, column: CsvColumn) -> np.ndarray | None:
        """The column with a number for each missing value; None if that is not the same number for all of them."""
        are_missing = np.isnan(array) if array.dtype.kind == "f" else None
        if are_missing is None or not are_missing.any():
            return array
        if self._missing is not None:
            return np.where(are_missing, self._missing, array.astype(np.float64))
        return array if column.takes_missing and not column.may_lack else None

    def rows(self, table: Any) -> Iterator[tuple[str, str]]:
        """The JSON of each row of a table, and what is wrong with it if it has none."""
        return map(self._row, table.to_pylist())

    def _row(self, row: Mapping[str, Any]) -> tuple[str, str]:
        try:
            for name, value in row.items():
                _check_finite(name, value)
            if self._columns is not None:
                return _encode(self._values(row, self._columns)).decode(), ""
            filled = {name: self._filled_value(name, value) for name, value in row.items()}
            return _encode(next(iter(filled.values())) if self._is_whole else filled).decode(), ""
        except (TypeError, ValueError) as error:
            return "", str(error)

    def _filled_value(self, name: str, value: Any) -> Any:
        """A value or list of an input, with a number for each missing one; a list that is missing stays so."""
        if self._missing is None or name not in self._of_numbers or (value is None and self._is_whole):
            return value
        return _with_number(value, self._missing)

    def _values(self, row: Mapping[str, Any], columns: CsvColumns) -> Any:
        values: dict[str, Any] = {}
        for name, column in zip(self.names, columns.columns, strict=True):
            value = row[name]
            if _is_missing(value):
                if self._missing is not None and not column.holds_text:
                    value = self._missing
                elif column.may_lack:
                    continue
                elif column.takes_missing:
                    value = None
                else:
                    raise ValueError(
                        f"column {quoted(name)}: the value is missing; fill it in"
                        + ("" if column.holds_text else ", or give a number for such values with --missing")
                    )
            values[name] = value
        if columns.are_named:
            return values
        return next(iter(values.values())) if columns.are_rows else list(values.values())

    def _holds_lists(self) -> bool:
        from pyarrow import types  # noqa: PLC0415 - an extra

        tests = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(test(kind) for kind in self._file.schema_arrow.types for test in tests)

    def _check_names(self, wanted: set[str]) -> None:
        # Columns that are not there are no fault yet: a mask may be left out, and the rows say whether they may.
        if unknown := set(self.names) - wanted:
            raise ConfigurationError(
                f"{self._path} has the column {quoted(min(unknown))}; the model takes: {', '.join(sorted(wanted))}"
            )


def _holds_numbers(kind: Any) -> bool:
    """Whether a column of this type, or of lists of it at any depth, holds numbers or nothing."""
    from pyarrow import types  # noqa: PLC0415 - an extra

    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return any(test(kind) for test in (types.is_integer, types.is_floating, types.is_decimal, types.is_null))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _with_number(value: Any, number: float) -> Any:
    """The value with `number` for each missing one in it, at any depth."""
    if isinstance(value, list):
        return [_with_number(each, number) for each in value]
    return number if _is_missing(value) else value


def _check_finite(name: str, value: Any) -> None:
    """Return if no number is infinite at any depth: JSON has none, and its encoder would write null for it.

    Raises:
        ValueError: one is; the message has the column and the value.
    """
    if isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            _check_finite(name, each)
    elif isinstance(value, float) and math.isinf(value):
        raise ValueError(f"column {quoted(name)}: {quoted(str(value))} is no number; give a finite one")


def _array_of(values: Any) -> np.ndarray | None:
    """The values of a pyarrow array of numbers, NaN for a missing one; None if they are others, or not all finite.

    From its buffer: pyarrow's own conversion imports pandas, where that is installed, which takes half a second.
    """
    from pyarrow import types  # noqa: PLC0415 - an extra

    is_float = types.is_float32(values.type) or types.is_float64(values.type)
    # Whole numbers beside missing ones would have to be floats, as which large ones would change.
    if not is_float and (values.null_count or not types.is_integer(values.type)):
        return None
    kind = "f" if is_float else "i" if types.is_signed_integer(values.type) else "u"
    dtype = np.dtype(f"<{kind}{values.type.bit_width // 8}")
    if not len(values):
        return np.empty(0, dtype)
    held = values.fill_null(math.nan) if values.null_count else values
    array = np.frombuffer(held.buffers()[1], dtype, count=len(held), offset=held.offset * dtype.itemsize)
    return None if is_float and np.isinf(array).any() else array


def _matrix_of(values: Any) -> np.ndarray | None:
    """The rows of a column of lists, `(rows, width)`; None if they are not of one length, or not all finite numbers."""
    from pyarrow import types  # noqa: PLC0415 - an extra

    if values.null_count or not len(values):
        return None
    flat = _array_of(values.flatten())
    if flat is None or (flat.dtype.kind == "f" and np.isnan(flat).any()):
        return None
    offsets = None if types.is_fixed_size_list(values.type) else _array_of(values.offsets)
    if offsets is not None and len(set(np.diff(offsets).tolist())) > 1:
        return None
    return flat.reshape(len(values), -1)


def _opened(path: Path) -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise ConfigurationError(_NEEDED) from error
    try:
        return parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"cannot read {path} as Parquet: {error}") from error


def parquet_row_count(path: Path) -> int:
    """The number of rows of a Parquet file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    count: int = _opened(path).metadata.num_rows
    return count

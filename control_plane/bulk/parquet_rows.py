"""The rows of a Parquet file, as the JSON of a row each: its columns are those of the model, by name or in order."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from control_plane.bulk.csv_columns import CsvColumns, columns_of
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import ConfigurationError, quoted

# Rows that are Python objects at a time: a column group of a large file may hold millions.
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
        self._missing = missing
        self._file = _opened(path)
        self.names: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        if len(set(self.names)) < len(self.names):
            raise ConfigurationError(
                f"{path} names a column twice: {', '.join(self.names)}. Give each a name of its own"
            )
        self._columns: CsvColumns | None = None
        # Whether a row is the value of the only column, such as a list of numbers.
        self._is_whole = len(signature.inputs) == len(self.names) == 1 and self._holds_lists()
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

    def rows(self) -> Iterator[tuple[str, str]]:
        """The JSON of each row, and what is wrong with it if it has none.

        Raises:
            ConfigurationError: the file cannot be read on.
        """
        import pyarrow as pa  # noqa: PLC0415 - an extra

        try:
            for batch in self._file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield self._row(row)
        except (OSError, pa.ArrowException) as error:
            raise ConfigurationError(f"cannot read {self._path}: {error}. Write the file again.") from error

    def _row(self, row: Mapping[str, Any]) -> tuple[str, str]:
        try:
            if self._is_whole:
                return _encode(next(iter(row.values()))).decode(), ""
            if self._columns is None:
                return _encode(row).decode(), ""
            return _encode(self._values(row, self._columns)).decode(), ""
        except (TypeError, ValueError) as error:
            return "", str(error)

    def _values(self, row: Mapping[str, Any], columns: CsvColumns) -> Any:
        values: dict[str, Any] = {}
        for name, column in zip(self.names, columns.columns, strict=True):
            value = row[name]
            if value is None or (isinstance(value, float) and math.isnan(value)):
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
        return values if columns.are_named else list(values.values())

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

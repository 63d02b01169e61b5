"""Read the rows of a file in chunks of one record each; an invalid row is reported and its neighbours are kept."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from control_plane.bulk.chunks import Chunk, Line, chunk_of_lines, chunk_of_tensors
from control_plane.bulk.column_tensors import reader_of_lines
from control_plane.bulk.csv_columns import CsvColumns, FieldError, columns_of, plain_row
from control_plane.bulk.formats import Format, HeaderLine, ReadOptions, fields_of, find_format, is_empty
from control_plane.bulk.parquet_rows import ParquetRows, parquet_row_count
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import ConfigurationError, quoted

_CSV, _JSONL, _PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)
# Characters of lines that are read at once. Fewer cost more calls, more keep the event loop busy for longer.
_BLOCK_CHARS = 256 * 1024


@dataclass(slots=True)
class _Progress:
    """How far a file of lines was read."""

    # The header, if any, is still to come.
    is_header: bool
    number: int = 0
    # Empty lines of which the next line tells whether they are rows.
    empty: list[int] = field(default_factory=list)

    @property
    def is_at_rows(self) -> bool:
        """Whether the next line is a row whatever comes before it."""
        return not self.is_header and not self.empty


class RowFile:
    """A `.csv`, `.tsv` (a row a line, with or without a header), `.jsonl` (an instance a line) or `.parquet` file."""

    def __init__(self, path: Path, signature: Signature, options: ReadOptions | None = None) -> None:
        """Detect the format of the file.

        Raises:
            ConfigurationError: it cannot be read, has another ending, or cannot hold the rows of the model.
        """
        self._path = path
        self._signature = signature
        self._options = options or ReadOptions()
        suffix = path.suffix.lower()
        if suffix not in (*_CSV, *_JSONL, *_PARQUET):
            raise ConfigurationError(
                f"{path} ends in {path.suffix!r}; rows are read from .csv, .tsv, .jsonl or .parquet"
            )
        if suffix in _JSONL and self._options.missing is not None:
            raise ConfigurationError(
                f"--missing has no effect on {path}: a row of JSON lines is sent as it is. Write the number in the "
                "place of each null, or leave --missing out"
            )
        # Lines with nothing in them that were passed over so far.
        self.empty_lines = 0
        self._parquet = ParquetRows(path, signature, missing=self._options.missing) if suffix in _PARQUET else None
        self._columns = columns_of(path, signature) if suffix in _CSV else None
        self.format: Format
        if self._parquet is not None:
            self.format = Format(encoding="", encoding_said=f"Parquet, columns {', '.join(self._parquet.names)}")
            return
        self.format = self._found_format()
        if self._columns is not None:
            self._columns = self._columns.in_order_of(self.format.header, path)
        self._is_plain = plain_row(self._columns, signature, self.format.delimiter)
        self._read_at_once = reader_of_lines(self._columns, signature, self.format.delimiter)

    def _found_format(self) -> Format:
        if self._columns is None:
            return find_format(self._path, self._options, width=None)
        options, width = self._options, len(self._columns.columns)
        if not self._columns.hold_text or options.header is not HeaderLine.AUTO:
            return find_format(self._path, options, width=width)
        # A line of texts may be a row: it is a header only if it names the columns.
        named = find_format(self._path, replace(options, header=HeaderLine.YES), width=width)
        if named.header and set(named.header) <= self._columns.names:
            return named
        return find_format(self._path, replace(options, header=HeaderLine.NO), width=width)

    def chunks(self, *, rows_per_chunk: int) -> Iterator[Chunk]:
        """Read every row; an invalid one is a fault of its chunk.

        Raises:
            ConfigurationError: the file cannot be read on.
        """
        self.empty_lines = 0
        if self._parquet is not None:
            yield from self._chunks_of_parquet(self._parquet, rows_per_chunk)
            return
        try:
            with self._path.open(encoding=self.format.encoding) as file:
                yield from self._chunks_of_lines(file, rows_per_chunk)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"cannot read {self._path} as {self.format.encoding_said}: {error}. Give its --encoding."
            ) from error

    def _chunks_of_parquet(self, file: ParquetRows, rows_per_chunk: int) -> Iterator[Chunk]:
        first_row = 0
        for table in file.tables(rows_per_chunk=rows_per_chunk):
            whole = file.tensors(table)
            for start in range(0, table.num_rows, rows_per_chunk):
                part = table.slice(start, rows_per_chunk)
                tensors = file.tensors(part) if whole is None else _sliced(whole, start, rows_per_chunk)
                if tensors is None:
                    lines = [_parquet_line(first_row + at, *row) for at, row in enumerate(file.rows(part), start=1)]
                    yield chunk_of_lines(lines, first_row, self._signature)
                else:
                    yield chunk_of_tensors(tensors, first_row=first_row, row_count=part.num_rows)
                first_row += part.num_rows

    def _chunks_of_lines(self, file: TextIO, rows_per_chunk: int) -> Iterator[Chunk]:
        """Read most chunks at once; where a line is none of numbers alone, those of its chunk one by one."""
        progress = _Progress(is_header=self.format.header is not None)
        first_row = 0
        for block in _blocks(file, rows_per_chunk):
            whole = self._read_at_once(block) if progress.is_at_rows else None
            for start in range(0, len(block), rows_per_chunk):
                part = block[start : start + rows_per_chunk]
                tensors = None
                if progress.is_at_rows:
                    tensors = self._read_at_once(part) if whole is None else _sliced(whole, start, rows_per_chunk)
                if tensors is not None:
                    progress.number += len(part)
                    yield chunk_of_tensors(tensors, first_row=first_row, row_count=len(part))
                    first_row += len(part)
                    continue
                rows = list(self._lines(part, progress))
                for at in range(0, len(rows), rows_per_chunk):
                    yield chunk_of_lines(rows[at : at + rows_per_chunk], first_row + at, self._signature)
                first_row += len(rows)
        self.empty_lines += len(progress.empty)

    def _lines(self, lines: Sequence[str], progress: _Progress) -> Iterator[Line]:
        for raw in lines:
            progress.number += 1
            text = raw.rstrip("\r\n")
            if is_empty(text, self.format.delimiter):
                progress.empty.append(progress.number)
                continue
            empty, progress.empty = progress.empty, []
            if progress.is_header:
                progress.is_header = False
                self.empty_lines += len(empty)
                continue
            if self._columns is not None and len(self._columns.columns) == 1:
                # Where a row is one value, a line without one is a row whose value is missing; but not at the end.
                yield from (self._csv_line(blank, "") for blank in empty)
            else:
                self.empty_lines += len(empty)
            number = progress.number
            yield Line(number, text, json=text) if self._columns is None else self._csv_line(number, text)

    def _csv_line(self, number: int, text: str) -> Line:
        columns = self._columns or CsvColumns(columns=())
        if self._is_plain(text):
            return Line(number, text, json=columns.row_of(text.replace(self.format.delimiter, ",")))
        try:
            fields = fields_of(text, self.format.delimiter) if text else [""]
        except csv.Error as error:
            return Line(number, text, fault=f"line {number}: {error}; a row is one line, with every quote closed")
        if len(fields) != len(columns.columns):
            return Line(
                number,
                text,
                fault=f"line {number} has {len(fields)} values, the model takes {len(columns.columns)}; it was cut at "
                f"{self.format.delimiter!r}",
            )
        try:
            return Line(number, text, json=columns.json(fields, missing=self._options.missing))
        except FieldError as error:
            return Line(number, text, fault=f"line {number}, {self._column(error.column + 1)}: {error}")

    def _column(self, column: int) -> str:
        if self.format.header is None or column > len(self.format.header):
            return f"column {column}"
        return f"column {column} ({quoted(self.format.header[column - 1])})"


def _blocks(file: TextIO, lines_per_chunk: int) -> Iterator[list[str]]:
    """Yield the lines in lists of a multiple of `lines_per_chunk`, the last one of any length."""
    held: list[str] = []
    while read := file.readlines(_BLOCK_CHARS):
        held += read
        if whole := len(held) - len(held) % lines_per_chunk:
            yield held[:whole]
            held = held[whole:]
    if held:
        yield held


def _sliced(tensors: Mapping[str, np.ndarray], start: int, rows: int) -> dict[str, np.ndarray]:
    return {name: array[start : start + rows] for name, array in tensors.items()}


def _parquet_line(number: int, json: str, fault: str) -> Line:
    return Line(number, json, json=json, fault=f"row {number}: {fault}" if fault else "", unit="row")


def count_rows(path: Path) -> int:
    """Estimate the number of rows for a progress bar: the lines that are not empty."""
    if path.suffix.lower() in _PARQUET:
        return parquet_row_count(path)
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error

"""Read the rows of a file in chunks of one record each; an invalid row is reported and its neighbours are kept."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
import numpy as np

from control_plane.bulk.csv_columns import CsvColumns, FieldError, columns_of, plain_row
from control_plane.bulk.formats import Format, HeaderLine, ReadOptions, fields_of, find_format, is_empty
from control_plane.bulk.parquet_rows import ParquetRows, parquet_row_count
from inferlane.contracts.wire.tensors import Signature
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.errors import UNDECODABLE, ConfigurationError, DecodeError, InvalidInputError, quoted

_CSV, _JSONL, _PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)
_KEPT_CHARS = 10_000
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """An invalid row: its index among the rows (from 0), its line (from 1), the reason, and its text."""

    row: int
    line: int
    detail: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of the file from `first_row` on, counted from 0.

    `tensors` holds the rows that fit, `positions` their places among the chunk's `row_count` rows, and `faults` what
    is wrong with each of the others, which `rejects` has with their lines.
    """

    first_row: int
    row_count: int
    tensors: Mapping[str, np.ndarray]
    positions: tuple[int, ...]
    faults: Mapping[int, str]
    rejects: tuple[Reject, ...] = ()


class _Line(NamedTuple):
    """A row as it was read: its JSON, or the reason why it is invalid."""

    number: int
    text: str
    json: str = ""
    fault: str = ""
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


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
            yield from self._chunks(self._parquet_lines(self._parquet), rows_per_chunk)
            return
        try:
            with self._path.open(encoding=self.format.encoding) as file:
                yield from self._chunks(self._lines(file), rows_per_chunk)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"cannot read {self._path} as {self.format.encoding_said}: {error}. Give its --encoding."
            ) from error

    def _chunks(self, lines: Iterator[_Line], rows_per_chunk: int) -> Iterator[Chunk]:
        first_row = 0
        while rows := list(islice(lines, rows_per_chunk)):
            yield _chunk(rows, first_row, self._signature)
            first_row += len(rows)

    @staticmethod
    def _parquet_lines(file: ParquetRows) -> Iterator[_Line]:
        for number, (json, fault) in enumerate(file.rows(), start=1):
            said = f"row {number}: {fault}" if fault else ""
            yield _Line(number, json, json=json, fault=said, unit="row")

    def _lines(self, file: TextIO) -> Iterator[_Line]:
        is_header = self.format.header is not None
        empty: list[int] = []
        for number, raw in enumerate(file, start=1):
            text = raw.rstrip("\r\n")
            if is_empty(text, self.format.delimiter):
                empty.append(number)
                continue
            if is_header:
                is_header = False
                self.empty_lines += len(empty)
                empty.clear()
                continue
            if self._columns is not None and len(self._columns.columns) == 1:
                # Where a row is one value, a line without one is a row whose value is missing; but not at the end.
                yield from (self._csv_line(blank, "") for blank in empty)
            else:
                self.empty_lines += len(empty)
            empty.clear()
            yield _Line(number, text, json=text) if self._columns is None else self._csv_line(number, text)
        self.empty_lines += len(empty)

    def _csv_line(self, number: int, text: str) -> _Line:
        if self._is_plain(text):
            return _Line(number, text, json=f"[{text.replace(self.format.delimiter, ',')}]")
        try:
            fields = fields_of(text, self.format.delimiter) if text else [""]
        except csv.Error as error:
            return _Line(number, text, fault=f"line {number}: {error}; a row is one line, with every quote closed")
        columns = self._columns or CsvColumns(columns=())
        if len(fields) != len(columns.columns):
            return _Line(
                number,
                text,
                fault=f"line {number} has {len(fields)} values, the model takes {len(columns.columns)}; it was cut at "
                f"{self.format.delimiter!r}",
            )
        try:
            return _Line(number, text, json=columns.json(fields, missing=self._options.missing))
        except FieldError as error:
            return _Line(number, text, fault=f"line {number}, {self._column(error.column + 1)}: {error}")

    def _column(self, column: int) -> str:
        if self.format.header is None or column > len(self.format.header):
            return f"column {column}"
        return f"column {column} ({quoted(self.format.header[column - 1])})"


def count_rows(path: Path) -> int:
    """Estimate the number of rows for a progress bar: the lines that are not empty."""
    if path.suffix.lower() in _PARQUET:
        return parquet_row_count(path)
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _chunk(lines: Sequence[_Line], first_row: int, signature: Signature) -> Chunk:
    faults = {position: line.fault for position, line in enumerate(lines) if line.fault}
    positions = [position for position in range(len(lines)) if position not in faults]
    tensors: Mapping[str, np.ndarray] = {}
    if positions:
        together = _decoded([lines[position] for position in positions], signature)
        if together is None:
            tensors, positions = _row_by_row(lines, positions, signature, faults)
        else:
            tensors = together
    return Chunk(
        first_row=first_row,
        row_count=len(lines),
        tensors=tensors,
        positions=tuple(positions),
        faults=faults,
        rejects=tuple(
            Reject(
                row=first_row + position,
                line=lines[position].number,
                detail=detail,
                text=lines[position].text[:_KEPT_CHARS],
            )
            for position, detail in sorted(faults.items())
        ),
    )


def _decoded(lines: Sequence[_Line], signature: Signature) -> Mapping[str, np.ndarray] | None:
    """Decode all rows at once; None if one of them is invalid."""
    try:
        # Each by itself: what begins in one line and ends in the next would make the rows of others move.
        for line in lines:
            _check_json(line.json)
        tensors = decode_instances(f"[{','.join(line.json for line in lines)}]".encode(), signature)
    except (*UNDECODABLE, DecodeError, InvalidInputError):
        return None
    # A line may hold more than one JSON value; only the count tells.
    return tensors if all(len(array) == len(lines) for array in tensors.values()) else None


def _row_by_row(
    lines: Sequence[_Line], positions: Sequence[int], signature: Signature, faults: dict[int, str]
) -> tuple[Mapping[str, np.ndarray], list[int]]:
    """Return the valid rows; the reason for each other row is added to `faults`."""
    good: dict[int, Mapping[str, np.ndarray]] = {}
    for position in positions:
        line = lines[position]
        try:
            tensors = decode_instances(f"[{line.json}]".encode(), signature)
        except (DecodeError, InvalidInputError) as error:
            faults[position] = f"{line}: {error}"
            continue
        if all(len(array) == 1 for array in tensors.values()):
            good[position] = tensors
        else:
            faults[position] = f"{line} holds more than one instance; write one a line"
    names = [spec.name for spec in signature.inputs]
    stacked = {name: np.concatenate([row[name] for row in good.values()]) for name in names} if good else {}
    return stacked, list(good)


_encode = msgspec.json.Encoder().encode


def result_lines(
    chunk: Chunk, predictions: list[Any], *, model: str, version: str, error: Mapping[str, str] | None
) -> bytes:
    """The JSON lines of a chunk: `{"row", "model", "version", "prediction"}`, or `{"row", "error"}`.

    `predictions` has one for each row that fits; when `error` is given it stands for all of them.
    """
    if error is None and len(predictions) == chunk.row_count:
        # Every row fits: what their lines share is written once.
        shared = b',"model":%b,"version":%b,"prediction":' % (_encode(model), _encode(version))
        rows = enumerate(map(_encode, predictions), start=chunk.first_row)
        return b"".join([b'{"row":%d%b%b}\n' % (row, shared, prediction) for row, prediction in rows])
    by_position = dict(zip(chunk.positions, predictions, strict=True)) if error is None else {}
    lines: list[Any] = []
    for position in range(chunk.row_count):
        row = chunk.first_row + position
        if position in by_position:
            lines.append({"row": row, "model": model, "version": version, "prediction": by_position[position]})
        elif position in chunk.faults:
            lines.append({"row": row, "error": {"code": "invalid_input", "detail": chunk.faults[position]}})
        else:
            lines.append({"row": row, "error": error})
    return b"\n".join([*map(_encode, lines), b""])


@contextmanager
def rejects_written(path: Path | None) -> Iterator[Callable[[Chunk], Chunk]]:
    """Yield a function that writes the rejected rows of a chunk to `path`, if given, and returns the chunk."""
    if path is None:
        yield lambda chunk: chunk
        return
    with path.open("wb") as file:

        def write(chunk: Chunk) -> Chunk:
            file.writelines(_encode(reject) + b"\n" for reject in chunk.rejects)
            return chunk

        yield write

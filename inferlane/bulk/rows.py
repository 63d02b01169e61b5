"""Rows of a file, in chunks that each become one record; a row that does not fit is told apart from its neighbours."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from inferlane.errors import ConfigurationError, DecodeError, InvalidInputError
from inferlane.signature import Signature
from inferlane.wire.v1 import decode_instances

# Past this a float no longer holds each whole number.
_EXACT_INTEGERS = 2.0**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of the file from `first_row` on, counted from 0.

    `tensors` holds the rows that fit, `positions` their places among the chunk's `row_count` rows, and `faults` what
    is wrong with each of the others.
    """

    first_row: int
    row_count: int
    tensors: Mapping[str, np.ndarray]
    positions: tuple[int, ...]
    faults: Mapping[int, str]


def read_chunks(path: Path, signature: Signature, *, rows_per_chunk: int) -> Iterator[Chunk]:
    """Read a `.csv` file (a row a line, with or without a header) or a `.jsonl` file (an instance a line).

    Raises:
        ConfigurationError: the file cannot be read, has another ending, or CSV for a model with several inputs.
    """
    if path.suffix == ".csv" and (len(signature.inputs) != 1 or len(signature.inputs[0].row_shape) != 1):
        raise ConfigurationError(f"{path}: CSV holds rows of numbers only; use .jsonl for this model's inputs")
    readers: dict[str, Callable[[TextIO], Iterator[str]]] = {".csv": _csv_instances, ".jsonl": _jsonl_instances}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ConfigurationError(f"{path} ends in {path.suffix!r}; rows are read from .csv or .jsonl")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            instances = reader(file)
            first_row = 0
            while lines := list(islice(instances, rows_per_chunk)):
                yield _chunk(lines, first_row, signature)
                first_row += len(lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def count_rows(path: Path) -> int:
    """About how many rows the file has, for a progress bar: its lines that are not empty."""
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _jsonl_instances(file: TextIO) -> Iterator[str]:
    return (line for line in file if not line.isspace())


def _csv_instances(file: TextIO) -> Iterator[str]:
    lines = (line for line in csv.reader(file) if line)
    first = next(lines, None)
    if first is None:
        return
    if all(_is_number(field) for field in first):
        yield _json_row(first)
    for line in lines:
        yield _json_row(line)


def _json_row(fields: list[str]) -> str:
    # A field that is no number becomes a string, which the signature's check then names.
    return "[" + ",".join(map(_json_field, fields)) + "]"


def _json_field(field: str) -> str:
    """A number as JSON spells it: `.5`, `+1` and `007` are numbers in CSV alone."""
    try:
        number = float(field)
    except ValueError:
        return json.dumps(field)
    return str(int(number)) if number.is_integer() and abs(number) < _EXACT_INTEGERS else repr(number)


def _is_number(field: str) -> bool:
    return not _json_field(field).startswith('"')


def _chunk(lines: list[str], first_row: int, signature: Signature) -> Chunk:
    count = len(lines)
    try:
        tensors = decode_instances(f"[{','.join(lines)}]".encode(), signature)
        # A line may hold more than one JSON value; only the count tells.
        if all(len(array) == count for array in tensors.values()):
            return Chunk(
                first_row=first_row, row_count=count, tensors=tensors, positions=tuple(range(count)), faults={}
            )
    except (DecodeError, InvalidInputError):
        pass
    return _row_by_row(lines, first_row, signature)


def _row_by_row(lines: list[str], first_row: int, signature: Signature) -> Chunk:
    good: dict[int, dict[str, np.ndarray]] = {}
    faults: dict[int, str] = {}
    for position, line in enumerate(lines):
        try:
            tensors = decode_instances(f"[{line}]".encode(), signature)
        except (DecodeError, InvalidInputError) as error:
            faults[position] = str(error)
            continue
        if all(len(array) == 1 for array in tensors.values()):
            good[position] = tensors
        else:
            faults[position] = "the line holds more than one instance; write one a line"
    names = [spec.name for spec in signature.inputs]
    stacked = {name: np.concatenate([row[name] for row in good.values()]) for name in names} if good else {}
    return Chunk(first_row=first_row, row_count=len(lines), tensors=stacked, positions=tuple(good), faults=faults)

"""Consecutive rows of a file that go into one record, and how lines of JSON become them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import Signature
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.errors import UNDECODABLE, DecodeError, InvalidInputError

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


class Line(NamedTuple):
    """A row as it was read: its JSON, or the reason why it is invalid."""

    number: int
    text: str
    json: str = ""
    fault: str = ""
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


def chunk_of_tensors(tensors: Mapping[str, np.ndarray], *, first_row: int, row_count: int) -> Chunk:
    """The chunk of rows that all fit."""
    return Chunk(
        first_row=first_row, row_count=row_count, tensors=tensors, positions=tuple(range(row_count)), faults={}
    )


def chunk_of_lines(lines: Sequence[Line], first_row: int, signature: Signature) -> Chunk:
    """The chunk of these rows; one that does not fit the signature is a fault of it."""
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


def _decoded(lines: Sequence[Line], signature: Signature) -> Mapping[str, np.ndarray] | None:
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
    lines: Sequence[Line], positions: Sequence[int], signature: Signature, faults: dict[int, str]
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

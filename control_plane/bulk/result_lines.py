"""The lines of the files that a job writes: results, and rows that were rejected."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

from inferlane.contracts.wire.class_names import ClassNames
from inferlane.contracts.wire.v1 import prediction_columns
from inferlane.errors import DecodeError, quoted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from control_plane.bulk.chunks import Chunk
    from inferlane.contracts.wire.tensors import Tensors


class _Line(msgspec.Struct, frozen=True, gc=False):
    """One line of the results."""

    row: int
    model: str
    version: str
    prediction: Any


_encoder = msgspec.json.Encoder()


def predicted_lines(chunk: "Chunk", outputs: "Tensors", *, model: str, version: str, classes: ClassNames) -> bytes:
    """The JSON lines of a chunk whose rows that fit have these outputs: `{"row", "model", "version", "prediction"}`.

    A row that does not fit is `{"row", "error"}`. The outputs stay columns until their text is written.

    Raises:
        DecodeError: an output has another number of rows than was sent.
    """
    for name, array in outputs.items():
        if len(array) != len(chunk.positions):
            raise DecodeError(f"output {quoted(name)} has {len(array)} rows, {len(chunk.positions)} rows were sent")
    predictions = _predictions(prediction_columns(outputs, classes))
    if len(chunk.positions) == chunk.row_count:
        rows: Any = range(chunk.first_row, chunk.first_row + chunk.row_count)
        return _encoder.encode_lines(list(map(_Line, rows, repeat(model), repeat(version), predictions)))
    lines: list[Any] = [None] * chunk.row_count
    for position, prediction in zip(chunk.positions, predictions, strict=True):
        lines[position] = _Line(chunk.first_row + position, model, version, prediction)
    return _with_faults(chunk, lines)


def failed_lines(chunk: "Chunk", error: Mapping[str, str]) -> bytes:
    """The JSON lines of a chunk whose rows that fit failed with `error`; the other rows have errors of their own."""
    lines: list[Any] = [None] * chunk.row_count
    for position in chunk.positions:
        lines[position] = {"row": chunk.first_row + position, "error": error}
    return _with_faults(chunk, lines)


def _with_faults(chunk: "Chunk", lines: list[Any]) -> bytes:
    for position, detail in chunk.faults.items():
        lines[position] = {"row": chunk.first_row + position, "error": {"code": "invalid_input", "detail": detail}}
    return _encoder.encode_lines(lines)


def _predictions(columns: Mapping[str, Sequence[Any]]) -> "Sequence[Any] | map[Any]":
    """One prediction a row: the value of the only output, or an object with a field for each."""
    if len(columns) == 1:
        return next(iter(columns.values()))
    return map(_object_of(tuple(columns)), *columns.values())


@lru_cache(maxsize=64)
def _object_of(names: tuple[str, ...]) -> Any:
    """A type whose JSON has these fields; making one costs a third of a dict."""
    fields = [f"field{number}" for number in range(len(names))]
    try:
        return msgspec.defstruct(
            "Prediction", fields, rename=dict(zip(fields, names, strict=True)), frozen=True, gc=False
        )
    except ValueError:
        # A name that JSON must escape.
        return lambda *values: dict(zip(names, values, strict=True))


@contextmanager
def rejects_written(path: "Path | None") -> "Iterator[Callable[[Chunk], Chunk]]":
    """Yield a function that writes the rejected rows of a chunk to `path`, if given, and returns the chunk."""
    if path is None:
        yield lambda chunk: chunk
        return
    with path.open("wb") as file:

        def write(chunk: "Chunk") -> "Chunk":
            file.write(_encoder.encode_lines(chunk.rejects))
            return chunk

        yield write

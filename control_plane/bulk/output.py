"""The result file: a line a row, in the order of the rows; and the file of rows that did not fit."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from control_plane.bulk.rows import Chunk

_encode = msgspec.json.Encoder().encode


def result_lines(
    chunk: Chunk, predictions: list[Any], *, model: str, version: str, error: Mapping[str, str] | None
) -> bytes:
    """The JSON lines of a chunk: `{"row", "model", "version", "prediction"}`, or `{"row", "error"}`.

    `predictions` has one for each row that fits; when `error` is given it stands for all of them.
    """
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
    """While the block runs, a function that writes a chunk's rejects to `path`, if there is one, and returns it."""
    if path is None:
        yield lambda chunk: chunk
        return
    with path.open("wb") as file:

        def write(chunk: Chunk) -> Chunk:
            file.writelines(_encode(reject) + b"\n" for reject in chunk.rejects)
            return chunk

        yield write

"""Rows of inputs with a free axis, such as the tokens of a text: of different lengths, filled up to the longest."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import simdjson

from inferlane.contracts.wire.axis_lengths import check_lengths
from inferlane.contracts.wire.json_rows import (
    OBJECTS_UP_TO_BYTES,
    Filler,
    fields_of,
    row_type,
    rows_of,
    shape_of,
    wanted_of,
)
from inferlane.contracts.wire.tensors import WIDEST, Signature, TensorSpec, exactly, numpy_dtype
from inferlane.errors import InvalidInputError, PayloadTooLargeError

# The most bytes after filling up: this many times the text, plus a constant.
_FILLED_FACTOR, _FILLED_BYTES = 16, 1024 * 1024


def decode_free_rows(text: bytes, signature: Signature, max_rows: int | None) -> dict[str, np.ndarray]:
    """Return one array `(rows, …)` for each input. A mask that rows do not have is 1 for what they have.

    Raises:
        DecodeError: the text is not JSON.
        InvalidInputError: there is no row, or a row does not fit; the message names the first such value.
        PayloadTooLargeError: there are more than `max_rows` rows, or the text or what it is filled up to is too long.
    """
    if len(text) > OBJECTS_UP_TO_BYTES:
        raise PayloadTooLargeError(
            f"{len(text)} bytes of rows of free length, the limit is {OBJECTS_UP_TO_BYTES}; split the request, or send "
            "binary tensors"
        )
    document, too_big = rows_of(text, "a list of rows", max_rows)
    fillers = {spec.name: Filler(wanted_of(spec), too_big=too_big) for spec in signature.inputs}
    columns: dict[str, list[np.ndarray]] = {spec.name: [] for spec in signature.inputs}
    for index, row in enumerate(document):
        place = f"instances[{index}]"
        if len(signature.inputs) == 1:
            spec = signature.inputs[0]
            columns[spec.name].append(_row(row, spec, fillers[spec.name], place))
            continue
        held = fields_of(row, place, signature.inputs)
        for spec in signature.inputs:
            if spec.name in held:
                array = _row(held[spec.name], spec, fillers[spec.name], f"{place}.{spec.name}")
                columns[spec.name].append(array)
        for spec in signature.inputs:
            if spec.name not in held:
                columns[spec.name].append(np.ones(columns[str(spec.mask_of)][index].shape, numpy_dtype(spec.datatype)))
        check_lengths({name: rows[index].shape for name, rows in columns.items()}, signature, place)
    limit_bytes = _FILLED_FACTOR * len(text) + _FILLED_BYTES
    return {spec.name: _together(columns[spec.name], spec, limit_bytes) for spec in signature.inputs}


def _row(value: Any, spec: TensorSpec, filler: Filler, place: str) -> np.ndarray:
    dtype = numpy_dtype(spec.datatype)
    if isinstance(value, simdjson.Array):
        try:
            listed = msgspec.convert(value.as_list(), row_type(spec))
            array = exactly(np.array(listed, WIDEST[dtype.kind]), dtype, allow_nan=spec.allow_nan)
        except (msgspec.ValidationError, ValueError, OverflowError):
            array = None
        if array is not None and spec.fits(array.shape):
            return array
    # Slower, but it finds the value that is wrong.
    lengths = shape_of(value)[: len(spec.row_shape)]
    lengths += [1] * (len(spec.row_shape) - len(lengths))
    shape = [length if axis == -1 else axis for axis, length in zip(spec.row_shape, lengths, strict=True)]
    if 0 in shape:
        # Beside longer rows it would be all fill, and the output of a model for that is undefined.
        raise InvalidInputError(
            f"{place} holds no value; a row of {spec.name!r} has the shape {list(spec.row_shape)}, and each free axis "
            "has one value at least"
        )
    array = np.empty((1, *shape), dtype)
    filler.row(array, 0, value, place=place)
    row: np.ndarray = array[0]
    return row


def _together(rows: list[np.ndarray], spec: TensorSpec, limit_bytes: int) -> np.ndarray:
    longest = tuple(map(max, zip(*(row.shape for row in rows), strict=True)))
    shorter = next((index for index, row in enumerate(rows) if row.shape != longest), None)
    if shorter is None:
        return np.stack(rows)
    if spec.pad is None:
        raise InvalidInputError(
            f"instances[{shorter}] has shape {list(rows[shorter].shape)} and another row {list(longest)}; input "
            f"{spec.name!r} takes rows of one length in a request: version.toml has no `pad` for it"
        )
    if len(rows) * int(np.prod(longest)) * rows[0].itemsize > limit_bytes:
        raise PayloadTooLargeError(
            f"{len(rows)} rows filled up to shape {list(longest)} take more than {limit_bytes} bytes; send long and "
            "short rows in requests of their own"
        )
    return filled([row[np.newaxis] for row in rows], spec.pad)


def filled(parts: Sequence[np.ndarray], pad: float | str) -> np.ndarray:
    """The rows of all parts in one array, each filled up with `pad` at the end of its axes to the longest of all."""
    longest = tuple(map(max, zip(*(part.shape[1:] for part in parts), strict=True)))
    if all(part.shape[1:] == longest for part in parts):
        return np.concatenate(parts)
    whole = np.full((sum(map(len, parts)), *longest), pad, parts[0].dtype)
    start = 0
    for part in parts:
        whole[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
        start += len(part)
    return whole

"""V1 `instances` and `predictions`: JSON rows to arrays, against a signature, and back.

Source: TensorFlow Serving REST API, row format ("instances"). A model with one input takes each row as a (nested)
list, a model with several takes each row as an object with one field for each input.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from inferlane.contracts.wire.class_names import ClassNames, named
from inferlane.contracts.wire.free_rows import decode_free_rows
from inferlane.contracts.wire.json_numbers import SIMDJSON_FROM_BYTES, Raw, numbers, refuse_repeats
from inferlane.contracts.wire.json_rows import (
    OBJECTS_UP_TO_BYTES,
    Filler,
    array_of,
    check_rows,
    fields_of,
    room_for,
    row_type,
    rows_of,
    wanted_of,
)
from inferlane.contracts.wire.named_columns import decode_named_columns, holds_objects
from inferlane.contracts.wire.row_texts import from_base64
from inferlane.contracts.wire.tensors import WIDEST, Signature, TensorSpec, exactly, json_values, numpy_dtype
from inferlane.errors import UNDECODABLE, DecodeError, PayloadTooLargeError, clipped


def room(text: bytes, rows: int, spec: TensorSpec) -> np.ndarray:
    """Return an array for the rows; of one row if the text is too short for all: then a row is malformed."""
    rows = rows if room_for(text, rows, spec.row_shape) else 1
    return np.empty((rows, *spec.row_shape), numpy_dtype(spec.datatype))


def decode_columns(text: bytes, signature: Signature, max_rows: int | None) -> dict[str, np.ndarray]:
    """Return one array `(rows, …)` for each input.

    Raises:
        DecodeError: the text is not JSON.
        InvalidInputError: there is no row, or a row does not fit; the message names the first such value.
        PayloadTooLargeError: there are more than `max_rows` rows.
    """
    if len(text) <= OBJECTS_UP_TO_BYTES:
        columns = _at_once(text, signature.inputs)
        if columns is not None and (max_rows is None or len(next(iter(columns.values()))) <= max_rows):
            return columns
    # Slower, but it finds the value that is wrong.
    return _columns_one_by_one(text, signature.inputs, max_rows)


def _at_once(text: bytes, specs: tuple[TensorSpec, ...]) -> dict[str, np.ndarray] | None:
    """Return the columns, or None when anything about them is not plainly right."""
    columns: dict[str, np.ndarray] = {}
    try:
        rows = _decoder_of(specs)(text)
        # Every field is present, so more quotes than that mean a repeated field.
        if not rows or text.count(b'"') != 2 * len(rows) * (len(specs) + _strings_a_row(specs)):
            return None
        for index, spec in enumerate(specs):
            column = array_of([getattr(row, f"field{index}") for row in rows], spec)
            if column is None:
                return None
            columns[spec.name] = column
    except (*UNDECODABLE, ValueError, OverflowError):
        return None
    return columns


def _strings_a_row(specs: tuple[TensorSpec, ...]) -> int:
    return sum(math.prod(spec.row_shape) for spec in specs if spec.datatype == "BYTES")


@lru_cache(maxsize=64)
def _decoder_of(specs: tuple[TensorSpec, ...]) -> Any:
    row = msgspec.defstruct(
        "Row",
        [(f"field{index}", row_type(spec)) for index, spec in enumerate(specs)],
        rename={f"field{index}": spec.name for index, spec in enumerate(specs)},
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]  # made just above


def _columns_one_by_one(text: bytes, specs: tuple[TensorSpec, ...], max_rows: int | None) -> dict[str, np.ndarray]:
    document, too_big = rows_of(text, "a list of objects with one field for each input", max_rows)
    columns = [(spec.name, room(text, len(document), spec), Filler(wanted_of(spec), too_big=too_big)) for spec in specs]
    for index, row in enumerate(document):
        held = fields_of(row, f"instances[{index}]", specs)
        for name, array, filler in columns:
            filler.row(array, min(index, len(array) - 1), held[name], place=f"instances[{index}].{name}")
    return {name: array for name, array, _ in columns}


class InstancesBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A V1 request as the value of a record. Model and version, if named, are those that the record was routed by."""

    instances: msgspec.Raw
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    version: str | msgspec.UnsetType | None = msgspec.UNSET


class _Probe(msgspec.Struct):
    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_INSTANCES_FIELD = re.compile(rb'"instances"\s*:')
_INPUTS_FIELD = re.compile(rb'"inputs"\s*:')
_decode_body = msgspec.json.Decoder(InstancesBody).decode
_decode_probe = msgspec.json.Decoder(_Probe).decode
# By the kind of the dtype.
ROW_DECODERS: dict[str, Callable[[bytes], Sequence[Sequence[float]]]] = {
    "f": msgspec.json.Decoder(list[list[float]]).decode,
    "i": msgspec.json.Decoder(list[list[int]]).decode,
    "u": msgspec.json.Decoder(list[list[int]]).decode,
}


def read_instances_body(payload: bytes) -> InstancesBody | None:
    """Return the fields of a V1 request, or None if the payload is not one.

    Raises:
        DecodeError: it is one, but is not JSON, or a field is repeated or has no effect on a record.
    """
    try:
        body = _decode_body(payload)
    except UNDECODABLE as error:
        if not _has_instances(payload):
            return None
        raise DecodeError(
            f"not a V1 request record: {clipped(str(error))}. Beside `instances` its value may name `model` and "
            "`version`; deadline and routing key are headers (docs/topics.md)"
        ) from error
    refuse_repeats(payload, body)
    return body


def _has_instances(payload: bytes) -> bool:
    try:
        return not isinstance(_decode_probe(payload).instances, msgspec.UnsetType)
    except UNDECODABLE:
        # No JSON, so the name of its field says what it was meant to be.
        return _INSTANCES_FIELD.search(payload) is not None and _INPUTS_FIELD.search(payload) is None


def decode_instances(raw: Raw, signature: Signature, *, max_rows: int | None = None) -> dict[str, np.ndarray]:
    """Return one array `(rows, …)` for each input of the signature, in its dtype, and finite if it takes no NaN.

    Raises:
        DecodeError: `raw` is not JSON.
        InvalidInputError: there is no row, or a row does not fit; the message names the first such row.
        PayloadTooLargeError: there are more values or brackets than `max_rows` rows have. Nothing was parsed: millions
            of tiny lists take a while, in which an event loop does nothing else.
    """
    tensors = _decode_instances(bytes(raw), signature, max_rows)
    for name in signature.raw_inputs:
        tensors[name] = from_base64(tensors[name], "instances")
    return tensors


def _decode_instances(text: bytes, signature: Signature, max_rows: int | None) -> dict[str, np.ndarray]:
    if signature.has_free_axes:
        return decode_free_rows(text, signature, max_rows)
    if max_rows is not None and len(text) > 2 * max_rows:
        _refuse_over(text, signature, max_rows)
    if len(signature.inputs) == 1:
        spec = signature.inputs[0]
        return {spec.name: _matrix(text, spec, max_rows)}
    return decode_columns(text, signature, max_rows)


def _refuse_over(text: bytes, signature: Signature, max_rows: int) -> None:
    shapes = [spec.row_shape for spec in signature.inputs]
    values_a_row = sum(math.prod(shape) for shape in shapes)
    lists_a_row = sum(_lists_of(shape) for shape in shapes)
    objects_a_row = 1 if len(shapes) > 1 else 0
    limits = ((b",", values_a_row), (b"[", lists_a_row), (b"{", objects_a_row))
    # Each value, list or object takes at least two characters: a short text needs no count.
    if any(
        len(text) > 2 * max_rows * of_a_row and text.count(mark) > max_rows * of_a_row + 1 for mark, of_a_row in limits
    ):
        raise PayloadTooLargeError(
            f"instances hold more values, lists or objects than {max_rows} rows of shape "
            f"{', '.join(str(list(shape)) for shape in shapes)} have, which is the limit; split the request, use "
            "`inferlane batch submit`, or send rows of the model's shape"
        )


def _lists_of(row_shape: tuple[int, ...]) -> int:
    """Return how many lists the JSON of one row has: one for each element of each axis but the last."""
    return sum(math.prod(row_shape[:axis]) for axis in range(len(row_shape)))


def _matrix(text: bytes, spec: TensorSpec, max_rows: int | None) -> np.ndarray:
    if spec.columns and holds_objects(text):
        return decode_named_columns(text, spec, max_rows)
    array = _few(text, spec) if len(text) < SIMDJSON_FROM_BYTES else _many(text, spec)
    if array is None and (spec.allow_nan or spec.datatype == "BYTES") and len(text) <= OBJECTS_UP_TO_BYTES:
        array = _as_objects(text, spec)
    if array is None or not len(array):
        # Slower, and the one that says which value is wrong.
        array = _one_by_one(text, spec, max_rows)
    check_rows(len(array), max_rows)
    return array


def _few(text: bytes, spec: TensorSpec) -> np.ndarray | None:
    """Return the matrix, or None when anything about it is not plainly right."""
    dtype = numpy_dtype(spec.datatype)
    if len(spec.row_shape) != 1 or dtype.kind not in ROW_DECODERS:
        return None
    try:
        array = np.array(ROW_DECODERS[dtype.kind](text), WIDEST[dtype.kind])
    except (*UNDECODABLE, ValueError, OverflowError):
        return None
    return exactly(array, dtype) if array.shape[1:] == spec.row_shape else None


def _as_objects(text: bytes, spec: TensorSpec) -> np.ndarray | None:
    """Return what simdjson copies no buffer of: strings, and numbers of which some are missing. None as in `_few`."""
    try:
        return array_of(_rows_decoder(spec)(text), spec)
    except (*UNDECODABLE, ValueError, OverflowError):
        return None


@lru_cache(maxsize=64)
def _rows_decoder(spec: TensorSpec) -> Any:
    return msgspec.json.Decoder(list[row_type(spec)]).decode  # type: ignore[misc]  # made for the input


def _many(text: bytes, spec: TensorSpec) -> np.ndarray | None:
    array = numbers(text, (-1, *spec.row_shape), wanted_of(spec))
    if array is None and spec.row_shape == (1,):
        bare = numbers(text, (-1,), wanted_of(spec))
        array = None if bare is None else bare.reshape(-1, 1)
    return array


def _one_by_one(text: bytes, spec: TensorSpec, max_rows: int | None) -> np.ndarray:
    document, too_big = rows_of(text, f"a list of rows of shape {list(spec.row_shape)}", max_rows)
    array = room(text, len(document), spec)
    filler = Filler(wanted_of(spec), too_big=too_big)
    for index, row in enumerate(document):
        filler.row(array, min(index, len(array) - 1), row, place=f"instances[{index}]")
    return array


def encode_predictions(outputs: Mapping[str, np.ndarray], classes: ClassNames) -> list[Any]:
    """One prediction a row, in TensorFlow Serving's row format: a value, or an object with a field an output.

    Whole numbers of an output in `classes` are class indices, and become the names of that output. Numbers that JSON
    has no form for are the strings "NaN", "Infinity" and "-Infinity".
    """
    columns = prediction_columns(outputs, classes)
    if len(columns) == 1:
        return next(iter(columns.values()))
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def prediction_columns(outputs: Mapping[str, np.ndarray], classes: ClassNames) -> dict[str, list[Any]]:
    """What `encode_predictions` makes of each output, one value a row."""
    return {name: _values(array, classes.get(name, ())) for name, array in outputs.items()}


def _values(array: np.ndarray, names: tuple[str, ...]) -> list[Any]:
    values = json_values(array)
    return [named(value, names) for value in values] if names and array.dtype.kind == "i" else values

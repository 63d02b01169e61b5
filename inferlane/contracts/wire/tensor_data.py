"""The data of one V2 tensor: raw bytes or JSON, to an array of the shape that the tensor says it has."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import simdjson

from inferlane.contracts.wire.axis_lengths import check_lengths
from inferlane.contracts.wire.json_numbers import SIMDJSON_FROM_BYTES, ExpectedNumbers, Raw, numbers
from inferlane.contracts.wire.json_rows import OBJECTS_UP_TO_BYTES, Filler, document_of, names_of, shape_of
from inferlane.contracts.wire.tensors import WIDEST, Signature, TensorSpec, are_finite, exactly, numpy_dtype
from inferlane.errors import UNDECODABLE, DecodeError, InvalidInputError, clipped, quoted

# More values than any payload holds, yet few enough for numpy to address, also beside an empty axis.
_MAX_VALUES = 2**40
_decode_flat = {
    "f": msgspec.json.Decoder(list[float]).decode,
    "i": msgspec.json.Decoder(list[int]).decode,
    "u": msgspec.json.Decoder(list[int]).decode,
    "T": msgspec.json.Decoder(list[str]).decode,
}
# How many bytes of text are read by msgspec, by kind; it makes an object of each value.
_OBJECTS_UP_TO = dict.fromkeys("fiu", SIMDJSON_FROM_BYTES) | {"T": OBJECTS_UP_TO_BYTES, "b": 0}
_LENGTH_BYTES = 4


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: memoryview, *, is_text: bool = True) -> np.ndarray:
    """Return a view of the bytes; of strings a copy. Without `is_text`, BYTES are raw bytes and need not be UTF-8.

    Raises:
        DecodeError: the number of values differs from the shape, or the bytes are not strings.
    """
    dtype = numpy_dtype(datatype)
    if dtype.kind == "T":
        return _strings(name, shape, raw, is_text=is_text)
    wanted_bytes = _size_of(name, shape) * dtype.itemsize
    if wanted_bytes != len(raw):
        raise DecodeError(
            f"tensor {quoted(name)}: {datatype} of shape {list(shape)} takes {quoted(wanted_bytes)} bytes, "
            f"{len(raw)} were sent"
        )
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def _strings(name: str, shape: Sequence[int], raw: memoryview, *, is_text: bool) -> np.ndarray:
    count = _size_of(name, shape)
    if count * _LENGTH_BYTES > len(raw):
        raise DecodeError(
            f"tensor {quoted(name)}: BYTES of shape {list(shape)} take at least {quoted(count * _LENGTH_BYTES)} bytes, "
            f"{len(raw)} were sent"
        )
    array = np.empty(count, numpy_dtype("BYTES") if is_text else object)
    start = 0
    for index in range(count):
        end = start + _LENGTH_BYTES
        end += int.from_bytes(raw[start:end], "little") if end <= len(raw) else 0
        if end > len(raw):
            raise DecodeError(
                f"tensor {quoted(name)}: string {index} ends at byte {end}, {len(raw)} were sent; send each "
                "string behind its length in 4 little-endian bytes"
            )
        try:
            value = raw[start + _LENGTH_BYTES : end]
            array[index] = str(value, "utf-8") if is_text else bytes(value)
        except UnicodeDecodeError as error:
            raise DecodeError(f"tensor {quoted(name)}: string {index} is no UTF-8 ({error}); send text") from error
        start = end
    if start != len(raw):
        raise DecodeError(f"tensor {quoted(name)}: its {count} strings take {start} bytes, {len(raw)} were sent")
    return array.reshape(shape)


def from_json(name: str, datatype: str, shape: Sequence[int], raw: Raw, *, allow_nan: bool = False) -> np.ndarray:
    """Return the values of `raw`, in one list or nested like the shape.

    Raises:
        DecodeError: a value does not fit; the message names the first such value by its indices.
    """
    text, dtype, size = bytes(raw), numpy_dtype(datatype), _size_of(name, shape)
    if len(text) < _OBJECTS_UP_TO[dtype.kind]:
        try:
            few = exactly(np.array(_decode_flat[dtype.kind](text), WIDEST[dtype.kind]), dtype)
        except (*UNDECODABLE, OverflowError, ValueError):
            few = None
        if few is not None and len(few) == size:
            return few.reshape(shape)
    wanted = ExpectedNumbers(where=f"tensor {quoted(name)}", name="it", datatype=datatype, allow_nan=allow_nan)
    if size <= len(text):
        is_flat = text.count(b"[") == 1
        array = numbers(text, (size,) if is_flat else shape, wanted)
        if array is not None:
            return array.reshape(shape)
    try:
        return _one_by_one(text, shape, wanted)
    except InvalidInputError as error:
        raise DecodeError(str(error)) from error


def _size_of(name: str, shape: Sequence[int]) -> int:
    """Return how many values an array of this shape has.

    Raises:
        DecodeError: there are more than numpy can address.
    """
    if math.prod(size or 1 for size in shape) > _MAX_VALUES:
        raise DecodeError(f"tensor {quoted(name)}: no array has the shape {list(shape)}; the limit is 2^40 values")
    return math.prod(shape)


def _one_by_one(text: bytes, shape: Sequence[int], wanted: ExpectedNumbers) -> np.ndarray:
    document, too_big = document_of(text, f"the data of {wanted.where}")
    if not isinstance(document, simdjson.Array):
        raise InvalidInputError(f"the data of {wanted.where} is {quoted(document)}; it must be a list of numbers")
    is_nested = len(document) > 0 and isinstance(document[0], simdjson.Array)
    size, count = math.prod(shape), len(document)
    if count != (shape[0] if is_nested else size) or size > len(text):
        raise InvalidInputError(
            f"{wanted.where} is said to have the shape {list(shape)}, which is {quoted(size)} values, and its data has "
            f"the shape {shape_of(document)}; send one list of all values, or lists nested like the shape"
        )
    array = np.empty(shape, numpy_dtype(wanted.datatype))
    filler = Filler(wanted, too_big=too_big)
    if is_nested:
        filler.rows(array, document)
        return array
    flat = array.reshape(-1)
    for index, value in enumerate(document):
        held = filler.held(value)
        if held is None:
            place = "".join(f"[{position}]" for position in np.unravel_index(index, shape))
            raise filler.fault(value, wanted.where + place)
        flat[index] = held
    return array


def check_tensors(tensors: dict[str, np.ndarray], signature: Signature) -> int:
    """Return the number of rows of tensors that fit the signature.

    Numbers of the same kind and another width are converted in place: versions of one model may differ in it.

    Raises:
        InvalidInputError: a tensor is missing, unknown, of another kind or shape, empty, out of range, or not finite.
    """
    specs = signature.inputs
    if len(tensors) != len(specs):
        unknown = sorted(set(tensors) - {spec.name for spec in specs})
        if unknown:
            raise InvalidInputError(f"no input is called {quoted(unknown[0])}; the inputs are: {names_of(specs)}")
    rows = None
    for spec in specs:
        array = tensors.get(spec.name)
        if array is None and spec.mask_of in tensors:
            array = tensors[spec.name] = np.ones(tensors[spec.mask_of].shape, numpy_dtype(spec.datatype))
        if array is None:
            raise InvalidInputError(f"input {spec.name!r} is missing; the inputs are: {names_of(specs)}")
        if array.dtype != spec.dtype:
            array = tensors[spec.name] = _converted(array, spec)
        _check_tensor(array, spec)
        if rows is not None and len(array) != rows:
            raise InvalidInputError(f"input {spec.name!r} has {len(array)} rows, the one before it has {rows}")
        rows = len(array)
    if not rows:
        raise InvalidInputError("the request has no rows; send at least one")
    # Fixed axes are those of the signature already.
    if signature.has_free_axes:
        check_lengths({name: array.shape[1:] for name, array in tensors.items()}, signature, "the request")
    return rows


_KINDS = {"f": "f", "i": "iu", "u": "iu"}


def _converted(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Numbers of another width as the input has them.

    Raises:
        InvalidInputError: the numbers are of another kind, or one is out of range.
    """
    dtype = numpy_dtype(spec.datatype)
    if array.dtype.kind not in _KINDS.get(dtype.kind, ""):
        raise InvalidInputError(f"input {spec.name!r} must be {spec.datatype}, not {array.dtype}")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        fits = np.isfinite(cast) | ~np.isfinite(array)
    else:
        limits = np.iinfo(dtype)
        fits, cast = (array >= limits.min) & (array <= limits.max), array.astype(dtype)
    if not fits.all():
        place, value = _first(~fits, array)
        raise InvalidInputError(
            f"input {spec.name!r}{place} is {value}, which {spec.datatype} cannot hold; send numbers in its range"
        )
    return cast


def _check_tensor(array: np.ndarray, spec: TensorSpec) -> None:
    if array.shape[1:] != spec.row_shape and not spec.fits(array.shape[1:]):
        raise InvalidInputError(
            f"input {spec.name!r} has shape {clipped(str(list(array.shape)))}; "
            f"it must be [rows, {str(list(spec.row_shape))[1:]}"
        )
    if spec.allow_nan:
        return
    if array.dtype.kind == "f" and not are_finite(array):
        _refuse_not_finite(array, spec)


def _refuse_not_finite(array: np.ndarray, spec: TensorSpec) -> None:
    are_bad = ~np.isfinite(array)
    place, value = _first(are_bad, array)
    raise InvalidInputError(
        f"input {spec.name!r}{place} is {value}; send finite numbers: it takes no missing values "
        "(`allow_nan` in version.toml)"
    )


def _first(are_bad: np.ndarray, array: np.ndarray) -> tuple[str, Any]:
    """Return the position and the value of the first bad element."""
    first = np.unravel_index(int(are_bad.argmax()), array.shape)
    return "".join(f"[{index}]" for index in first), array[first]

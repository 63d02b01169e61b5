"""Numbers in JSON text as typed arrays, with no Python object for each of them.

Reading any text takes at most `PEAK_FACTOR` times its length of memory, plus `PEAK_CONSTANT_BYTES`: numbers go from the
text into memory of their own type, and nothing else is built. If a value does not fit,
`inferlane.contracts.wire.json_rows` reads one value at a time and names the position of the first bad one.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import msgspec
import numpy as np
import simdjson

from inferlane.contracts.wire.tensors import exactly, numpy_dtype
from inferlane.errors import DecodeError

PEAK_FACTOR = 16
PEAK_CONSTANT_BYTES = 16 * 1024 * 1024

Raw = bytes | memoryview | msgspec.Raw
"""JSON text in any form in which a caller may have it."""

# Below this, msgspec is faster: building a simdjson document costs 1.5 µs.
SIMDJSON_FROM_BYTES = 512
# simdjson's element type for a kind of numpy dtype.
_BUFFER_OF = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}
# A document of simdjson takes up to twelve times its text. Longer text is read in pieces of this length: shorter pieces
# cost more parses, longer ones more memory, and time during which no other thread runs.
_PIECE_BYTES = 1024 * 1024
# From this width on, counting the values is faster than counting the brackets.
_WIDE_ROW_BYTES = 100
# Above this a double cannot represent every whole number.
EXACT_INTEGERS = 2.0**53
_ELSE_THAN_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_BRACKETS_AND_SPACE = b"[] \t\r\n"
_NO_NUMBER = re.compile(rb"[^-+.0-9eE,]")
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class _Parsers(threading.local):
    """A simdjson parser for each thread: it reuses its buffers and must not be shared."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_parsers = _Parsers()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedNumbers:
    """What an array must hold, and what messages call it: `where` in the request, `name` in the signature."""

    where: str
    name: str
    datatype: str
    # Whether null, "NaN", "Infinity" and "-Infinity" are numbers: in results, and in inputs that take them.
    allow_nan: bool = False


def numbers(text: bytes, shape: Sequence[int], wanted: ExpectedNumbers) -> np.ndarray | None:
    """Return the array of this shape in the wanted datatype; None when anything about the text is not plainly right.

    -1 for the first axis takes any length.
    """
    dtype = numpy_dtype(wanted.datatype)
    if dtype.kind == "T":
        return None
    if dtype.kind == "b":
        text = _bits_of(text)
    try:
        if len(text) > _PIECE_BYTES:
            return _in_pieces(text, shape, dtype)
        return _at_once(text, shape, dtype)
    except (ValueError, TypeError, RuntimeError, msgspec.DecodeError):
        return None


def _at_once(text: bytes, shape: Sequence[int], dtype: np.dtype) -> np.ndarray | None:
    if not text.lstrip().startswith(b"["):
        # A JSON object has a length, too.
        return None
    document: Any = _parsers.parser.parse(text)
    rows, width = len(document), shape[-1]
    if shape[0] not in (-1, rows):
        return None
    if len(shape) == 1:
        if text.count(b"[") != 1:
            return None
    elif len(shape) == 2 and len(text) > rows * _WIDE_ROW_BYTES:  # noqa: PLR2004 - rows of numbers
        # simdjson flattens any nesting: the text is a matrix only with one bracket a row and one around them all.
        if any(len(row) != width for row in document) or text.count(b"[") != rows + 1:
            return None
    elif not _is_shaped(text, (rows, *shape[1:])):
        return None
    flat = exactly(_flat(document, dtype), dtype)
    return None if flat is None else flat.reshape(rows, *shape[1:])


def _in_pieces(text: bytes, shape: Sequence[int], dtype: np.dtype) -> np.ndarray | None:
    _check_json(text)
    listed = text.translate(None, _BRACKETS_AND_SPACE)
    if _NO_NUMBER.search(listed):
        return None
    count = listed.count(b",") + 1
    rows = shape[0] if shape[0] != -1 else count // max(1, prod(shape[1:]))
    if not _is_shaped(text, (rows, *shape[1:])):
        return None
    array = np.empty(count, dtype)
    # A parser of its own: the thread's parser would keep the memory of a large piece.
    parser = simdjson.Parser()
    start = done = 0
    while start < len(listed):
        end = len(listed) if len(listed) - start <= _PIECE_BYTES else listed.rfind(b",", start, start + _PIECE_BYTES)
        piece = exactly(_flat(parser.parse(b"[" + listed[start:end] + b"]"), dtype), dtype)
        if piece is None:
            return None
        array[done : done + len(piece)] = piece
        start, done = end + 1, done + len(piece)
    return array.reshape(rows, *shape[1:])


def _flat(document: Any, dtype: np.dtype) -> np.ndarray:
    """Return every number of the document in order, in the widest type of its kind."""
    element, wide = _BUFFER_OF["u" if dtype.kind == "b" else dtype.kind]
    try:
        return np.frombuffer(document.as_buffer(of_type=element), dtype=wide)
    except TypeError:
        # Whole numbers may have a fraction of zero: many JSON writers always write one.
        flat = np.frombuffer(document.as_buffer(of_type="d"), dtype=np.float64)
        if not (np.abs(flat) < EXACT_INTEGERS).all() or not (np.trunc(flat) == flat).all():
            raise
        if wide == np.uint64 and (flat < 0).any():
            raise
        return flat.astype(wide)


def _bits_of(text: bytes) -> bytes:
    """Booleans as the numbers that simdjson can copy; text that holds anything else is refused by being no list."""
    if _NO_BOOLEAN.search(text):
        return b"null"
    return text.replace(b"true", b"1").replace(b"false", b"0")


_NO_BOOLEAN = re.compile(rb'[-0-9"{]|null')


def _is_shaped(text: bytes, shape: Sequence[int]) -> bool:
    """Return whether JSON that holds numbers alone is nested exactly as an array of this shape."""
    structure = text.translate(None, _ELSE_THAN_STRUCTURE)
    length = 0
    for size in reversed(shape):
        length = 2 + size * length + max(0, size - 1)
    if length != len(structure):
        return False
    wanted = b""
    for size in reversed(shape):
        wanted = b"[" + (wanted + b",") * (size - 1) + (wanted if size else b"") + b"]"
    return structure == wanted


# Only a string that a colon follows is a key. The pattern passes each string as a whole.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"(\s*+:)?+', re.DOTALL)


def refuse_repeats(text: bytes, read: msgspec.Struct | dict[str, Any]) -> None:
    """Return if each field of `text` was there once: `read` is what was made of it, with no field left out.

    The fields of the structs in it are `UNSET` where they were absent. `Raw` parts are not inspected: their reader
    counts their fields.

    Raises:
        DecodeError: a field is there twice.
    """
    quotes = text.count(b'"')
    if quotes == 2:  # noqa: PLR2004 - a single key, and no string beside it
        return
    seen = _Seen()
    seen.count(read)
    if quotes == 2 * (seen.keys + seen.strings) + sum(raw.count(b'"') for raw in seen.raws):
        return
    # Quotes within strings, or a repeated field.
    if _keys_of(text) != seen.keys + sum(map(_keys_of, seen.raws)):
        raise DecodeError("the body has a field twice; send each once")


def _keys_of(text: bytes) -> int:
    return sum(found[1] is not None for found in _STRING.finditer(text))


@dataclass(slots=True)
class _Seen:
    """The keys, the strings and the parts left as text of what was read."""

    keys: int = 0
    strings: int = 0
    raws: list[bytes] = field(default_factory=list)

    def count(self, value: Any) -> None:
        if isinstance(value, str):
            self.strings += 1
        elif isinstance(value, msgspec.Raw):
            self.raws.append(bytes(value))
        elif isinstance(value, msgspec.Struct):
            for name in value.__struct_fields__:
                held = getattr(value, name)
                if held is not msgspec.UNSET:
                    self.keys += 1
                    self.count(held)
        elif isinstance(value, dict):
            self.keys += len(value)
            for held in value.values():
                self.count(held)
        elif isinstance(value, list):
            for held in value:
                self.count(held)

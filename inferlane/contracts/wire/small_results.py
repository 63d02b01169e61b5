"""Read the predictions of a result of one row with a few numbers, as most are, without making arrays of them."""

import math
import struct
from functools import lru_cache
from typing import Any

import msgspec

from inferlane.contracts.wire.class_names import ClassNames, named
from inferlane.contracts.wire.v2_fields import Absent, ResponseRead
from inferlane.errors import UNDECODABLE

# Of `struct`, by datatype.
CODES = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
# Beyond so many numbers an array is faster.
MAX_NUMBERS = 64
# As in `v2.py`: JSON parts repeat, and only small ones are kept.
_CACHED_HEADERS = 1024
_CACHED_HEADER_BYTES = 1024

_decode = msgspec.json.Decoder(ResponseRead).decode


class _RowOutput(msgspec.Struct, frozen=True):
    """One output of the row: where its numbers begin and end among all; `is_list` for a row of several axes."""

    name: str
    start: int
    end: int
    is_list: bool
    may_be_class: bool


class _RowPlan(msgspec.Struct, frozen=True):
    numbers: struct.Struct
    outputs: tuple[_RowOutput, ...]


def row_predictions(content: bytes, json_length: int | None, classes: ClassNames) -> list[Any] | None:
    """Return what `encode_predictions` makes of a stored result; None if it is not such a small one, or not valid."""
    if json_length is None or not 0 <= json_length <= _CACHED_HEADER_BYTES:
        return None
    plan = _row_plan(content[:json_length])
    if plan is None or len(content) - json_length != plan.numbers.size:
        return None
    numbers = plan.numbers.unpack_from(content, json_length)
    if not all(map(math.isfinite, numbers)):
        return None
    row: dict[str, Any] = {}
    for output in plan.outputs:
        value: Any = list(numbers[output.start : output.end]) if output.is_list else numbers[output.start]
        names = classes.get(output.name) if output.may_be_class else None
        row[output.name] = named(value, names) if names else value
    return [row] if len(row) > 1 else list(row.values())


@lru_cache(maxsize=_CACHED_HEADERS)
def _row_plan(header: bytes) -> _RowPlan | None:
    """Return how to read results with this JSON part; None if they are not one row of a few numbers."""
    try:
        outputs = _decode(header).outputs
    except UNDECODABLE:
        return None
    found: list[_RowOutput] = []
    codes, start = "", 0
    for output in outputs:
        code, shape, parameters = CODES.get(output.datatype), output.shape, output.parameters
        if code is None or not isinstance(output.data, Absent) or shape[0] != 1 or len(shape) > 2:  # noqa: PLR2004 - axes
            return None
        count = shape[1] if len(shape) > 1 else 1
        if start + count > MAX_NUMBERS or parameters.binary_data_size != count * struct.calcsize(f"<{code}"):
            return None
        found.append(_RowOutput(output.name, start, start + count, len(shape) > 1, output.datatype.startswith("INT")))
        codes, start = codes + code * count, start + count
    if not found or len({output.name for output in found}) != len(found):
        return None
    return _RowPlan(struct.Struct(f"<{codes}"), tuple(found))

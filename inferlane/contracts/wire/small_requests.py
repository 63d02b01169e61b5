"""Encode requests of one row with a few numbers, as most are, without making an array of them."""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from inferlane.contracts.wire.json_numbers import SIMDJSON_FROM_BYTES
from inferlane.contracts.wire.small_results import CODES, MAX_NUMBERS
from inferlane.contracts.wire.tensors import Signature, numpy_dtype
from inferlane.contracts.wire.v1 import ROW_DECODERS
from inferlane.contracts.wire.v2 import encode_binary_request
from inferlane.errors import UNDECODABLE


class SmallRows(NamedTuple):
    """How to encode a row of one signature."""

    head: bytes
    numbers: struct.Struct
    decode: Callable[[bytes], Sequence[Sequence[float]]]

    def payload(self, text: bytes) -> tuple[bytes, int] | None:
        """Return what `encode_binary_request` makes of V1 instances; None if they are not plainly one such row."""
        if len(text) >= SIMDJSON_FROM_BYTES:
            return None
        try:
            (row,) = self.decode(text)
            return self.head + self.numbers.pack(*row), len(self.head)
        except (*UNDECODABLE, ValueError, OverflowError, struct.error):
            return None


def small_rows_of(signature: Signature) -> SmallRows | None:
    """Return how to encode a row of this signature; None if its rows are more than a few numbers of one input."""
    if len(signature.inputs) != 1 or signature.has_free_axes:
        return None
    (spec,) = signature.inputs
    code, shape = CODES.get(spec.datatype), spec.row_shape
    if code is None or len(shape) != 1 or not 0 < shape[0] <= MAX_NUMBERS:
        return None
    dtype = numpy_dtype(spec.datatype)
    decode = ROW_DECODERS.get(dtype.kind)
    if decode is None:
        return None
    payload, length = encode_binary_request({spec.name: np.zeros((1, *shape), dtype)})
    return SmallRows(payload[:length], struct.Struct(f"<{shape[0]}{code}"), decode)

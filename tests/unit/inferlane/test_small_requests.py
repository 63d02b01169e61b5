"""Small requests encoded without arrays are the same payloads, and what is not plainly one is left to the arrays."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.wire.small_requests import small_rows_of
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.contracts.wire.v2 import encode_binary_request
from inferlane.errors import InferlaneError

DATATYPES = ("FP16", "FP32", "FP64", "INT8", "INT32", "INT64", "UINT8", "UINT64")


def signature(*inputs: TensorSpec) -> Signature:
    return Signature(inputs=inputs, outputs=())


def numbers(datatype: str = "FP32", *row_shape: int) -> Signature:
    return signature(TensorSpec(name="input", datatype=datatype, shape=(-1, *(row_shape or (2,)))))


def by_arrays(text: bytes, wanted: Signature) -> tuple[bytes, int] | None:
    """What the arrays make of it; None if they refuse it."""
    try:
        return encode_binary_request(decode_instances(text, wanted, max_rows=10))
    except InferlaneError:
        return None


@given(
    st.sampled_from(DATATYPES),
    st.lists(st.floats() | st.integers(-(2**65), 2**65) | st.floats(width=16), min_size=2, max_size=2),
)
@example("FP32", [3.4028235677973362e38, 0.0])
@example("FP32", [3.4028235677973366e38, 0.0])
@example("FP16", [65519.99, -0.0])
@example("FP16", [65520.0, 5e-324])
@example("INT8", [127, 128])
@example("FP16", [0.0, -(2**63) - 1])
def test_the_payload_is_that_of_the_arrays(datatype: str, row: list[float]) -> None:
    """Guards `pack`: rounding, limits and what is refused are those of numpy."""
    wanted = numbers(datatype)
    text = json.dumps([row]).encode()
    small = small_rows_of(wanted)
    assert small is not None
    payload = small.payload(text)
    if payload is not None:
        assert payload == by_arrays(text, wanted)
    elif all(map(math.isfinite, row)):
        # Left to the arrays because it does not fit, or is no whole number.
        assert by_arrays(text, wanted) is None or datatype.startswith(("INT", "UINT"))


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"[[]]",
        b"[[1]]",
        b"[[1, 2, 3]]",
        b"[[1, 2], [3, 4]]",
        b"[1, 2]",
        b"[[1, null]]",
        b'[[1, "2"]]',
        b"[[1, true]]",
        b'[{"a": 1, "b": 2}]',
        b"[[1, 1e39]]",
        b"[[1, 2]",
        b"[[1, 2" + b" " * 512 + b"]]",
    ],
)
def test_what_is_not_plainly_one_row_is_left_to_the_arrays(text: bytes) -> None:
    small = small_rows_of(numbers())
    assert small is not None
    assert small.payload(text) is None


@pytest.mark.parametrize(
    "wanted",
    [
        numbers("BYTES"),
        numbers("BOOL"),
        numbers("FP32", 2, 2),
        numbers("FP32", 65),
        Signature(inputs=(TensorSpec(name="a", datatype="FP32", shape=(-1, -1)),), outputs=(), has_free_axes=True),
        signature(*(TensorSpec(name=name, datatype="FP32", shape=(-1, 2)) for name in "ab")),
        signature(TensorSpec(name="a", datatype="FP32", shape=(-1,))),
    ],
    ids=["text", "bits", "a matrix", "many numbers", "a free axis", "two inputs", "no axis"],
)
def test_other_signatures_are_left_to_the_arrays(wanted: Signature) -> None:
    assert small_rows_of(wanted) is None

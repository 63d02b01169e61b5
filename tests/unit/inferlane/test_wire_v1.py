"""V1 instances: JSON rows to arrays, and a message that names the first wrong one."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.contracts.wire.v1 import decode_instances, encode_predictions, read_instances_body
from inferlane.errors import DecodeError, InvalidInputError, PayloadTooLargeError
from tests.support.fakes.records import IRIS

TWO_INPUTS = Signature(
    inputs=(
        TensorSpec(name="age", datatype="INT64", shape=(-1,)),
        TensorSpec(name="features", datatype="FP32", shape=(-1, 2)),
    ),
    outputs=(),
)
SMALL_AND_LARGE = pytest.mark.parametrize("filler_rows", [0, 200], ids=["small body", "body over simdjson's threshold"])


def rows_then(bad: str, filler_rows: int) -> bytes:
    return ("[" + "[1.0,2.0,3.0,4.0]," * filler_rows + bad + "]").encode()


@given(
    npst.arrays(
        np.float32, st.tuples(st.integers(1, 60), st.just(4)), elements=st.floats(-(2.0**100), 2.0**100, width=32)
    )
)
def test_finite_rows_come_back_exactly(rows: np.ndarray) -> None:
    decoded = decode_instances(json.dumps(rows.tolist()).encode(), IRIS)["input"]
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, rows)


def test_whole_numbers_are_numbers_too() -> None:
    np.testing.assert_array_equal(decode_instances(b"[[5, 3, 1, 0]]", IRIS)["input"], np.float32([[5, 3, 1, 0]]))


@SMALL_AND_LARGE
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('[1,2,"a",4]', "[2] holds 'a', a string"),
        ("[1,2,true,4]", "[2] holds true"),
        ("[1,2,null,4]", "[2] holds null"),
        ("[1,2,3]", "shape [3]"),
        ("[1,2,3,4,5]", "shape [5]"),
        ("[]", "shape [0]"),
        ("3", "is 3"),
        ("[1,2,3,1e300]", "1e+300"),
        ("[1,2,3,1e999]", "[3] holds 1e999"),
        ("[[1],2,3,4]", "[0] holds a list"),
    ],
)
def test_a_row_that_does_not_fit_is_named(bad: str, says: str, filler_rows: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_instances(rows_then(bad, filler_rows), IRIS)
    assert says in str(caught.value)
    assert f"[{filler_rows}]" in str(caught.value)


@SMALL_AND_LARGE
@pytest.mark.parametrize("bad", ["[1,2,3,NaN]", "[1,2,3,Infinity]", "[1,2,3"])
def test_what_is_not_json_is_a_decode_error(bad: str, filler_rows: int) -> None:
    with pytest.raises(DecodeError, match="NaN and Infinity are not JSON"):
        decode_instances(rows_then(bad, filler_rows), IRIS)


def test_text_that_is_not_utf8_is_refused_and_not_found() -> None:
    with pytest.raises((DecodeError, InvalidInputError)):
        decode_instances(b'[{"age": 1, "features": ["\xff", 1]}]', TWO_INPUTS)
    with pytest.raises(DecodeError):
        read_instances_body(b'{"model": "\xff", "instances": [[1]]}')


def test_no_row_at_all_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="empty"):
        decode_instances(b"[]", IRIS)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_our_errors(raw: bytes) -> None:
    with suppress(DecodeError, InvalidInputError):
        decode_instances(raw, IRIS)


def test_a_model_with_several_inputs_takes_an_object_a_row() -> None:
    decoded = decode_instances(b'[{"age": 3, "features": [1, 2]}, {"age": 4, "features": [3, 4]}]', TWO_INPUTS)
    np.testing.assert_array_equal(decoded["age"], np.int64([3, 4]))
    np.testing.assert_array_equal(decoded["features"], np.float32([[1, 2], [3, 4]]))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'[{"age": 3}]', "no field 'features'"),
        (b'[{"age": 3.5, "features": [1, 2]}]', "age holds 3.5; input 'age' takes INT64: send whole numbers"),
        (b'[{"age": "3", "features": [1, 2]}]', "age holds '3', a string"),
        (b'[{"age": 36893488147419103232, "features": [1, 2]}]', "INT64"),
    ],
)
def test_a_field_that_does_not_fit_is_named(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_instances(raw, TWO_INPUTS)
    assert says in str(caught.value)


def test_instances_are_found_in_a_v1_payload_only() -> None:
    body = read_instances_body(b'{"instances": [[1]], "model": "x"}')
    assert body is not None
    assert (bytes(body.instances), body.model) == (b"[[1]]", "x")
    assert read_instances_body(b'{"inputs": []}') is None
    assert read_instances_body(b"\xff") is None


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b'{"instances": [[NaN]]}', "malformed"),
        (b'{"instances": [[1]]} x', "trailing"),
        (b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
    ],
)
def test_a_v1_record_that_is_not_json_is_refused_as_one(payload: bytes, says: str) -> None:
    """It was read as a V2 request, which said that it has the unknown field `instances`."""
    with pytest.raises(DecodeError, match=rf"not a V1 request record: .*{says}"):
        read_instances_body(payload)


IMAGES = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2, 3)),), outputs=())


@pytest.mark.parametrize(
    ("signature", "row"),
    [
        (IRIS, "[1,2,3,4]"),
        (IMAGES, "[[1,2,3],[4,5,6]]"),
        (TWO_INPUTS, '{"age":1,"features":[1,2]}'),
    ],
)
def test_more_rows_than_allowed_are_refused_unparsed_and_as_many_are_not(signature: Signature, row: str) -> None:
    """Guards `_refuse_over` in `decode_instances`; fails when it is taken out, or counts too strictly."""
    allowed = f"[{','.join([row] * 30)}]".encode()
    (first, *_) = decode_instances(allowed, signature, max_rows=30).values()
    assert len(first) == 30
    with pytest.raises(PayloadTooLargeError, match="than 29 rows"):
        decode_instances(allowed, signature, max_rows=29)
    with pytest.raises(PayloadTooLargeError):
        decode_instances(b"[" + b"[]," * 200, signature, max_rows=29)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["age", "features"]), inner),
    ),
    st.sampled_from([IRIS, IMAGES, TWO_INPUTS]),
)
def test_any_json_raises_only_our_errors(document: object, signature: Signature) -> None:
    with suppress(DecodeError, InvalidInputError):
        decode_instances(json.dumps(document).encode(), signature)


@pytest.mark.parametrize("signature", [IRIS, IMAGES, TWO_INPUTS])
@pytest.mark.parametrize("depth", [60, 64, 65, 900, 5_000, 100_000])
def test_nesting_of_any_depth_raises_only_our_errors(signature: Signature, depth: int) -> None:
    """Guards `RecursionError` in `UNDECODABLE`; fails when it is taken out."""
    nested = b"[" * depth + b"1" + b"]" * depth
    for raw in (nested, b'[{"age": ' + nested + b', "features": [1, 2]}]', b"[" * depth):
        with pytest.raises((DecodeError, InvalidInputError)):
            decode_instances(raw, signature)
    with suppress(DecodeError):
        body = read_instances_body(b'{"instances": ' + nested + b"}")
        assert body is not None
        assert bytes(body.instances) == nested


@given(
    npst.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-(2.0**100), 2.0**100, width=32)
    )
)
def test_predictions_are_the_rows_of_the_outputs(array: np.ndarray) -> None:
    predictions = json.loads(json.dumps(encode_predictions({"scores": array}, {})))
    np.testing.assert_array_equal(np.float32(predictions), array)

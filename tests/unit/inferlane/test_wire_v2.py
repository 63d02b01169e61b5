"""V2 payloads: what is encoded comes back, whatever is not a payload raises DecodeError alone."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from inferlane.contracts.wire.tensors import datatype_of
from inferlane.contracts.wire.v2 import decode_request, decode_response, encode_binary_request, encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES, ALL_AS_JSON, ResponseForm
from inferlane.errors import DecodeError

DTYPES = st.sampled_from([np.float32, np.float64, np.int64, np.int8, np.uint16, np.bool_])
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    DTYPES.flatmap(
        lambda dtype: npst.arrays(
            dtype,
            npst.array_shapes(max_dims=3, max_side=4),
            elements=npst.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
        )
    ),
    min_size=1,
    max_size=3,
)


def assert_same(got: dict[str, np.ndarray], sent: dict[str, np.ndarray]) -> None:
    assert got.keys() == sent.keys()
    for name, array in sent.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@given(TENSORS)
def test_a_binary_request_comes_back(tensors: dict[str, np.ndarray]) -> None:
    got = decode_request(*encode_binary_request(tensors))
    assert_same(got.tensors, tensors)
    assert got.form is ALL_AS_BYTES


@given(TENSORS, st.sampled_from([ALL_AS_BYTES, ALL_AS_JSON]))
def test_a_response_comes_back(tensors: dict[str, np.ndarray], form: ResponseForm) -> None:
    payload, json_length = encode_response(tensors, model="m", version="v", request_id="r", form=form)
    assert_same(decode_response(payload, json_length), tensors)


def test_a_json_request_is_read_and_asks_for_json() -> None:
    got = decode_request(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}', None)
    np.testing.assert_array_equal(got.tensors["x"], np.float32([[1, 2]]))
    assert got.form is ALL_AS_JSON


def test_what_may_be_left_out_of_a_request_may_be_null() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], "parameters": None}
    asked = [{"name": "y", "parameters": None}]
    for outputs, names in ((None, ()), (asked, ("y",))):
        body = {"id": None, "parameters": None, "inputs": [tensor], "outputs": outputs, "model_name": None}
        got = decode_request(json.dumps(body).encode(), None)
        np.testing.assert_array_equal(got.tensors["x"], np.float32([[1, 2]]))
        assert (got.form.id, got.form.names, got.form.is_binary("y")) == (None, names, False)


@given(st.binary(max_size=300), st.none() | st.integers(-5, 400))
def test_arbitrary_bytes_raise_only_decode_errors(payload: bytes, json_length: int | None) -> None:
    for decode in (decode_request, decode_response):
        with pytest.raises(DecodeError):
            decode(payload, json_length)


BINARY = '"parameters": {"binary_data_size": %s}'


@pytest.mark.parametrize(
    ("entry", "body"),
    [
        ('"datatype": "FP32", "shape": [1, 2], ' + BINARY % 8, b"1234567"),
        ('"datatype": "FP32", "shape": [1, 2], ' + BINARY % 8, b"123456789"),
        ('"datatype": "FP32", "shape": [1, 3], ' + BINARY % 8, b"12345678"),
        ('"datatype": "FP32", "shape": [-1, 2], ' + BINARY % 8, b"12345678"),
        ('"datatype": "FP32", "shape": [], ' + BINARY % 4, b"1234"),
        ('"datatype": "FP32", "shape": [1], ' + BINARY % -4, b""),
        ('"datatype": "FP32", "shape": [1], ' + BINARY % '"4"', b"1234"),
        ('"datatype": "BYTES", "shape": [1], ' + BINARY % 4, b"1234"),
        ('"datatype": "FP32", "shape": [1]', b""),
        ('"datatype": "INT8", "shape": [1], "data": [1000]', b""),
        ('"datatype": "FP32", "shape": [2], "data": [1, "x"]', b""),
        ('"datatype": "FP32", "shape": [1], "data": ["1.5"]', b""),
        ('"datatype": "FP32", "shape": [1], "data": [true]', b""),
        ('"datatype": "INT64", "shape": [1], "data": [1.5]', b""),
        ('"datatype": "BOOL", "shape": [1], "data": ["a"]', b""),
        ('"datatype": "FP32", "shape": [1], "data": [1e300]', b""),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(entry: str, body: bytes) -> None:
    header = b'{"inputs": [{"name": "x", ' + entry.encode() + b"}]}"
    with pytest.raises(DecodeError):
        decode_request(header + body, len(header))


@pytest.mark.parametrize("shape", [[2**62, 0], [0, 2**63 - 1], [2**63 - 1, 2**63 - 1, 0], [2**40, 2**40], [1] * 33, []])
@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_a_shape_that_no_array_has_is_refused_with_and_without_bytes(shape: list[int], field: str) -> None:
    decode = decode_request if field == "inputs" else decode_response
    for held in ({"data": []}, {"data": [[]]}, {"parameters": {"binary_data_size": 0}}):
        header = json.dumps({field: [{"name": "x", "datatype": "FP32", "shape": shape, **held}]}).encode()
        with pytest.raises(DecodeError):
            decode(header, len(header))


def test_text_that_is_not_utf8_is_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode_request(b'{"inputs": [{"name": "\xff", "datatype": "FP32", "shape": [1], "data": [1]}]}', None)


def test_binary_tensors_are_views_of_the_payload() -> None:
    payload, json_length = encode_binary_request({"x": np.ones((2, 3), np.float32)})
    got = decode_request(payload, json_length)
    assert not got.tensors["x"].flags.owndata


@given(TENSORS)
def test_a_json_request_comes_back(tensors: dict[str, np.ndarray]) -> None:
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": datatype_of(array), "data": array.ravel().tolist()}
        for name, array in tensors.items()
    ]
    got = decode_request(json.dumps({"inputs": inputs}).encode(), None)
    assert_same(got.tensors, tensors)
    assert got.form is ALL_AS_JSON


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
ALMOST_TENSORS = st.fixed_dictionaries(
    {
        "name": st.text(max_size=3),
        "shape": st.lists(st.integers(-(2**70), 2**70) | st.integers(0, 3), max_size=4),
        "datatype": st.sampled_from(["FP32", "INT8", "UINT64", "BOOL", "BYTES", ""]),
    },
    optional={
        "data": ANY_JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": ANY_JSON | st.integers(0, 16)}),
    },
)


@given(st.sampled_from(["inputs", "outputs"]), st.lists(ALMOST_TENSORS, max_size=3), st.binary(max_size=16))
def test_what_is_almost_a_payload_raises_only_decode_errors(field: str, entries: list[object], body: bytes) -> None:
    header = json.dumps({field: entries, "model_name": "m", "model_version": "v"}).encode()
    for decode in (decode_request, decode_response):
        for json_length in (len(header), None):
            with suppress(DecodeError):
                decode(header + (body if json_length else b""), json_length)

"""Odd values of every kind, for models of every kind: each is an array that fits, or an error that says why."""

import json
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlane.contracts.wire.tensor_data import check_tensors
from inferlane.contracts.wire.tensors import Column, Signature, TensorSpec
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.contracts.wire.v2 import decode_request
from inferlane.errors import DecodeError, InvalidInputError, PayloadTooLargeError

REFUSALS = (DecodeError, InvalidInputError, PayloadTooLargeError)


def spec(name: str, datatype: str, *row: int, **about: Any) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *row), **about)


def model(*inputs: TensorSpec) -> Signature:
    return Signature.of_graph(inputs=inputs, outputs=(spec("y", "FP32"),))


COLUMNS = (Column(name="a", default="p", categories=("p", "q")), Column(name="b"), Column(name="c", default=1.0))
DATATYPES = ("FP16", "FP32", "FP64", "INT8", "INT64", "UINT8", "UINT64", "BOOL", "BYTES")
MODELS = (
    *(model(spec("x", datatype, 3)) for datatype in DATATYPES),
    model(spec("x", "FP32", 3, allow_nan=True)),
    model(spec("x", "INT64", 1)),
    model(spec("x", "FP32")),
    model(spec("x", "FP32", 2, 2)),
    model(spec("x", "FP32", 3, columns=COLUMNS)),
    model(spec("a", "FP32", 2), spec("b", "INT64", 1)),
    model(spec("a", "BYTES", 1), spec("b", "FP32", 1, allow_nan=True)),
    model(spec("a", "INT64", -1, pad=0), spec("b", "INT64", -1, pad=0, mask_of="a")),
    model(spec("x", "FP32", -1, -1, pad=0)),
    model(spec("x", "BYTES", -1)),
)
# As text: most of them are no values of Python, or not of one kind.
ATOMS = st.sampled_from(
    [
        *(
            "null",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            "-1e400",
            "1e-400",
            "0",
            "1",
            "-1",
            "1.0",
            "1.5",
            "-0",
            "1E5",
        ),
        *(
            "9223372036854775808",
            "18446744073709551616",
            "-9223372036854775809",
            "1" + "0" * 400,
            "01",
            ".5",
            "+1",
            "1_0",
        ),
        *("true", "false", '"1"', '"p"', '""', '"\\ud800"', '"\\u0000"', '"日本"', "[]", "{}", "[[]]", "[null]"),
    ]
)
NAMES = st.sampled_from(["a", "b", "c", "x", ""])


def listed(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=4).map(lambda found: f"[{','.join(found)}]")


def keyed(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    fields = st.tuples(NAMES, values).map(lambda field: f"{json.dumps(field[0])}:{field[1]}")
    return st.lists(fields, max_size=4).map(lambda found: f"{{{','.join(found)}}}")


VALUES = st.recursive(ATOMS, lambda inner: listed(inner) | keyed(inner), max_leaves=12)
# Mostly right, so that what is wrong is met late.
NEARLY = st.one_of(st.just("1"), st.just("1"), st.just("[1,1,1]"), VALUES)


def check(arrays: dict[str, np.ndarray], signature: Signature) -> None:
    for each in signature.inputs:
        array = arrays[each.name]
        assert array.dtype == each.dtype
        assert each.fits(array.shape[1:])
        if array.dtype.kind == "f" and not each.allow_nan:
            assert np.isfinite(array).all()


@settings(max_examples=300)
@given(signature=st.sampled_from(MODELS), text=listed(listed(NEARLY) | keyed(NEARLY) | VALUES), rows=st.integers(1, 5))
def test_rows_of_json_fit_or_are_refused(signature: Signature, text: str, rows: int) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    for limit in (None, rows):
        with suppress(*REFUSALS):
            check(decode_instances(raw, signature, max_rows=limit), signature)


@st.composite
def tensor(draw: st.DrawFn, each: TensorSpec) -> tuple[str, bytes]:
    """An input of the V2 protocol in JSON or binary, which may be anything, and its bytes."""
    shape: list[Any] = [
        draw(st.integers(0, 3)),
        *(size if size > 0 else draw(st.integers(0, 3)) for size in each.row_shape),
    ]
    if draw(st.booleans()):
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from([-1, 0, 1.0, True, 2**31, 2**63, "3"]))
    datatype = draw(st.sampled_from([each.datatype, each.datatype, *DATATYPES, "BF16", "", None]))
    head = json.dumps({"name": each.name, "shape": shape, "datatype": datatype})[:-1]
    if draw(st.booleans()):
        return f'{head},"data":{draw(listed(NEARLY) | VALUES)}}}', b""
    parts = st.sampled_from(
        [b"\x01\0\0\0a", b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack("<f", 1), struct.pack("<f", float("nan"))]
    )
    raw = b"".join(draw(st.lists(parts, max_size=12)))
    said = draw(st.sampled_from([len(raw), len(raw), len(raw) + 1, -1, 2**63, "4", None, True]))
    return f'{head},"parameters":{{"binary_data_size":{json.dumps(said)}}}}}', raw


@settings(max_examples=300)
@given(data=st.data(), signature=st.sampled_from(MODELS))
def test_tensors_of_the_open_inference_protocol_fit_or_are_refused(data: st.DataObject, signature: Signature) -> None:
    inputs = [data.draw(tensor(each)) for each in signature.inputs]
    head = f'{{"inputs":[{",".join(text for text, _ in inputs)}]}}'.encode("utf-8", "surrogatepass")
    length = data.draw(st.sampled_from([len(head), len(head), len(head), 0, -1, len(head) + 4, 2**63]))
    with suppress(*REFUSALS):
        decode_request(head + b"".join(raw for _, raw in inputs), length, signature)


@pytest.mark.parametrize(
    "text", ['{"a":[1]}', '{"a":[1,2,3]}', f'{{"a":[{"1," * 100_000}1]}}', '[{"a":1}]', '"[1]"', "1"]
)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_data_that_is_no_list_is_refused(text: str, datatype: str) -> None:
    """Guards the check that simdjson has parsed a list: an object has a length, too."""
    size = text.count(",") + 1
    body = f'{{"inputs":[{{"name":"x","shape":[{size}],"datatype":"{datatype}","data":{text}}}]}}'.encode()

    with pytest.raises(DecodeError, match="x"):
        decode_request(body, len(body), model(spec("x", datatype)))


@pytest.mark.parametrize("text", ["[[1],[]]", "[[],[1]]", "[[]]"])
def test_a_row_without_values_is_refused_beside_others_too(text: str) -> None:
    """Guards the check of each row: filled up to the longest, it would be nothing but fill."""
    with pytest.raises(InvalidInputError, match=r"instances\[\d\] holds no value"):
        decode_instances(text.encode(), model(spec("x", "INT64", -1, pad=0)))


MASKED = model(spec("a", "INT64", -1, pad=0), spec("b", "INT64", -1, pad=0, mask_of="a"))


@pytest.mark.parametrize("rows", ['[{"a":[1,2],"b":[1]}]', '[{"a":[1,2],"b":[1,1,1]},{"a":[1,2,3],"b":[1,1]}]'])
def test_a_mask_of_other_lengths_than_its_row_is_refused(rows: str) -> None:
    """Guards the check of each row: filled up together, the mask of a longer row would hide it."""
    with pytest.raises(InvalidInputError, match=r"instances\[0\]: 'b' has the shape .*whose mask it is"):
        decode_instances(rows.encode(), MASKED)


def test_a_mask_of_another_shape_is_refused_in_tensors_too() -> None:
    tensors = {"a": np.ones((2, 3), np.int64), "b": np.ones((2, 4), np.int64)}

    with pytest.raises(InvalidInputError, match=r"'b' has the shape \[4\], and 'a', whose mask it is, \[3\]"):
        check_tensors(tensors, MASKED)
    assert check_tensors({"a": tensors["a"]}, MASKED) == 2


TIED = Signature.of_graph(
    inputs=tuple(
        TensorSpec(name=name, datatype="INT64", shape=(-1, -1), pad=0, axes=("rows", axis))
        for name, axis in (("a", "length"), ("b", "length"), ("c", "other"))
    ),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
)
_TIED = r"'b' has the length 1 on its axis 'length', and 'a' has 2; the model wants one length there"


def test_axes_with_one_name_must_have_one_length_in_each_row() -> None:
    """Guards the check of each row: filled up together, the rows below would have one length."""
    rows = '[{"a":[1,2],"b":[1],"c":[1,2,3]},{"a":[1],"b":[1,2],"c":[1]}]'

    with pytest.raises(InvalidInputError, match=rf"^instances\[0\]: {_TIED}"):
        decode_instances(rows.encode(), TIED)
    assert decode_instances(b'[{"a":[1,2],"b":[1,2],"c":[1]},{"a":[1],"b":[1],"c":[1,2,3]}]', TIED)["c"].shape == (2, 3)


def test_axes_with_one_name_must_have_one_length_in_tensors_too() -> None:
    tensors = {"a": np.ones((2, 2), np.int64), "b": np.ones((2, 1), np.int64), "c": np.ones((2, 5), np.int64)}

    with pytest.raises(InvalidInputError, match=rf"^the request: {_TIED}"):
        check_tensors(tensors, TIED)
    assert check_tensors(tensors | {"b": tensors["a"]}, TIED) == 2

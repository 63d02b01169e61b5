"""What JSON says is taken exactly, or refused with the row, the column, the value and what to send instead."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.wire.tensor_data import check_tensors
from inferlane.contracts.wire.tensors import Signature, TensorSpec, numpy_dtype
from inferlane.contracts.wire.v1 import decode_instances, encode_predictions
from inferlane.contracts.wire.v2 import decode_request, decode_response, encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.errors import DecodeError, InferlaneError, InvalidInputError

INTEGERS = [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
FILLERS = pytest.mark.parametrize("filler_rows", [0, 300], ids=["few rows", "many rows"])


def signature(datatype: str, *row_shape: int) -> Signature:
    return Signature(inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1, *row_shape)),), outputs=())


def read_v1(rows: str, datatype: str, *row_shape: int) -> np.ndarray:
    return decode_instances(rows.encode(), signature(datatype, *row_shape))["x"]


def read_v2(data: str, datatype: str, shape: list[int]) -> np.ndarray:
    header = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}'.encode()
    return decode_request(header, None).tensors["x"]


@given(st.sampled_from(INTEGERS), st.data())
def test_whole_numbers_of_every_width_come_back_exactly(datatype: str, data: st.DataObject) -> None:
    limits = np.iinfo(numpy_dtype(datatype))
    values = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=1, max_size=60))
    wanted = np.array(values, numpy_dtype(datatype))
    np.testing.assert_array_equal(read_v1(json.dumps(values), datatype), wanted)
    np.testing.assert_array_equal(read_v1(json.dumps([[value] for value in values]), datatype, 1)[:, 0], wanted)
    np.testing.assert_array_equal(read_v2(json.dumps(values), datatype, [len(values)]), wanted)


@FILLERS
@pytest.mark.parametrize("datatype", INTEGERS)
@pytest.mark.parametrize("written", ["1.0", "1e0", "10.0e-1"])
def test_a_whole_number_may_have_a_fraction_of_zero(datatype: str, written: str, filler_rows: int) -> None:
    rows = f"[{'[2,3],' * filler_rows}[{written},3]]"
    assert read_v1(rows, datatype, 2)[-1].tolist() == [1, 3]
    assert read_v2(rows, datatype, [filler_rows + 1, 2])[-1].tolist() == [1, 3]


def test_a_fraction_of_zero_beside_a_number_that_no_double_holds_changes_neither() -> None:
    large = 2**53 + 1
    assert read_v1(f"[[{large},1.0]]", "INT64", 2).tolist() == [[large, 1]]
    assert read_v1(f"[[{2**64 - 1},1.0]]", "UINT64", 2).tolist() == [[2**64 - 1, 1]]
    assert read_v1("[" + f"[{large},1.0]," * 200 + "[0,0]]", "INT64", 2)[0].tolist() == [large, 1]


@FILLERS
@pytest.mark.parametrize(
    ("datatype", "bad", "says"),
    [
        ("INT64", "1.5", "holds 1.5"),
        ("INT64", "9007199254740993.0", "holds 9007199254740992.0"),
        ("INT64", "9223372036854775808", "holds 9223372036854775808"),
        ("INT8", "128", "from -128 to 127"),
        ("UINT8", "-1", "from 0 to 255"),
        ("UINT64", "-1.0", "holds -1.0"),
        ("UINT64", "18446744073709551616", "holds 1.8446744073709552e+19"),
        ("INT32", "true", "holds true"),
        ("INT32", '"7"', "holds '7', a string"),
        ("FP32", "1e39", "holds 1e+39"),
        ("FP32", "1e400", "holds 1e400"),
        ("FP16", "65520", "holds 65520"),
        ("FP64", "null", "holds null"),
        ("FP64", '"NaN"', "holds 'NaN', a string"),
        ("FP32", '{"a":1}', "holds an object"),
        ("FP32", "[1]", "holds a list"),
        ("BOOL", "1", "send true or false"),
        ("BOOL", '"true"', "send true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_row_and_column(
    datatype: str, bad: str, says: str, filler_rows: int
) -> None:
    good = "true,false" if datatype == "BOOL" else "1,2"
    head = good.split(",", maxsplit=1)[0]
    rows = f"[{f'[{good}],' * filler_rows}[{head},{bad}],[{bad},{bad}]]"
    with pytest.raises(InvalidInputError) as caught:
        read_v1(rows, datatype, 2)
    assert f"instances[{filler_rows}][1]" in str(caught.value)
    assert says in str(caught.value)
    assert datatype in str(caught.value)
    with pytest.raises(DecodeError) as nested:
        read_v2(rows, datatype, [filler_rows + 2, 2])
    assert f"tensor 'x'[{filler_rows}][1]" in str(nested.value)
    if not bad.startswith(("[", "{")):
        flat = f"[{','.join([good] * filler_rows + [head, bad, bad, bad])}]"
        with pytest.raises(DecodeError) as caught_flat:
            read_v2(flat, datatype, [filler_rows + 2, 2])
        assert f"tensor 'x'[{filler_rows}][1]" in str(caught_flat.value)
        assert says in str(caught_flat.value)


@FILLERS
def test_a_bare_number_is_a_row_of_one(filler_rows: int) -> None:
    rows = f"[{'0.5,' * filler_rows}1.5,2]"
    assert read_v1(rows, "FP32", 1)[-2:].tolist() == [[1.5], [2.0]]
    assert read_v1(rows.replace("1.5", "[1.5]"), "FP32", 1)[-2:].tolist() == [[1.5], [2.0]]
    with pytest.raises(InvalidInputError, match=r"takes rows of shape \[2\]"):
        read_v1(rows, "FP32", 2)
    two = Signature(
        inputs=(
            TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),
            TensorSpec(name="y", datatype="INT64", shape=(-1,)),
        ),
        outputs=(),
    )
    columns = decode_instances(b'[{"x": 1.5, "y": 2.0}, {"x": [2.5], "y": 3}]', two)
    assert (columns["x"].tolist(), columns["y"].tolist()) == ([[1.5], [2.5]], [2, 3])


@FILLERS
def test_booleans_and_images_are_read_and_must_be_of_their_shape(filler_rows: int) -> None:
    flags = f"[{'[true,false],' * filler_rows}[false,true]]"
    assert read_v1(flags, "BOOL", 2)[-1].tolist() == [False, True]
    image = "[[1,2,3],[4,5,6]]"
    rows = f"[{','.join([image] * (filler_rows + 1))}]"
    assert read_v1(rows, "FP32", 2, 3)[-1].tolist() == [[1, 2, 3], [4, 5, 6]]
    for bad in ("[[1,2,3,4],[5,6]]", "[1,2,3,4,5,6]", "[[1,2],[3,4],[5,6]]", "[[[1,2,3]],[4,5,6]]"):
        with pytest.raises(InvalidInputError, match=rf"instances\[{filler_rows + 1}\]"):
            read_v1(f"{rows[:-1]},{bad}]", "FP32", 2, 3)


def test_a_long_whole_number_is_a_number_as_javascript_writes_it() -> None:
    assert read_v1(f"[[{10**20}, 1]]", "FP64", 2).tolist() == [[1e20, 1.0]]
    assert read_v1(f"[{f'[{10**20}, 1],' * 100}[0,0]]", "FP64", 2)[0].tolist() == [1e20, 1.0]


# Numbers as databases and `Decimal` write them: many digits before the point, behind it, and in the exponent.
DECIMALS = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][-+]?0{0,3}[0-9]{1,2})?", fullmatch=True)


@given(st.lists(DECIMALS, min_size=1, max_size=40))
def test_numbers_of_any_length_beside_a_whole_number_of_more_than_64_bits_come_back_exactly(written: list[str]) -> None:
    rows = ",".join(f"[{number}]" for number in [10**20, *written] * 30)
    assert read_v1(f"[{rows}]", "FP64", 1)[:, 0].tolist() == [1e20, *map(float, written)] * 30


@FILLERS
def test_text_and_64_bits_beside_a_whole_number_of_more_are_left_as_they_are(filler_rows: int) -> None:
    text, whole = f'{10**20} "1e400" \\', 2**63 - 1
    takes = Signature(
        inputs=tuple(TensorSpec(name=name, datatype=of, shape=(-1, 1)) for name, of in
                     (("text", "BYTES"), ("whole", "INT64"), ("x", "FP64"))),
        outputs=(),
    )  # fmt: skip
    row = json.dumps({"text": text, "whole": whole, "x": 10**20})
    tensors = decode_instances(f"[{f'{row},' * filler_rows}{row}]".encode(), takes)
    assert {name: tensors[name][-1].item() for name in tensors} == {"text": text, "whole": whole, "x": 1e20}


@pytest.mark.parametrize(
    "rows",
    [
        '[{"x": 1, "x": 2, "y": 3}]',
        '[{"x": 1, "x": 2}]',
        '[{"x": 1, "y": 3, "z": 4}]',
        '[{"x": 1, "\\u0078": 2, "y": 3}]',
    ],
)
def test_a_field_of_a_row_that_is_there_twice_or_is_no_input_is_refused(rows: str) -> None:
    two = Signature(
        inputs=tuple(TensorSpec(name=name, datatype="INT64", shape=(-1,)) for name in ("x", "y")), outputs=()
    )
    with pytest.raises(InvalidInputError, match=r"instances\[0\] has"):
        decode_instances(rows.encode(), two)


@pytest.mark.parametrize(("shape", "data"), [([0, 2], "[]"), ([0], "[]"), ([0, 2], "[[]]")])
def test_no_rows_are_refused_and_a_tensor_without_values_is_read(shape: list[int], data: str) -> None:
    with pytest.raises(InferlaneError):
        check_tensors({"x": read_v2(data, "FP32", shape)}, signature("FP32", *shape[1:]))


NOT_FINITE = np.array([[np.nan, np.inf], [-np.inf, 1.5]], np.float32)


def test_numbers_that_json_has_not_are_strings_in_results_and_come_back() -> None:
    """A request that SUCCEEDED with NaN was `null` in one place and unreadable for ever in another."""
    assert encode_predictions({"scores": NOT_FINITE}, {}) == [["NaN", "Infinity"], ["-Infinity", 1.5]]
    content, json_length = encode_response({"scores": NOT_FINITE}, model="m", version="v")
    assert json.loads(content)["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", 1.5]
    np.testing.assert_array_equal(decode_response(content, json_length)["scores"], NOT_FINITE)
    raw = encode_response({"scores": NOT_FINITE}, model="m", version="v", form=ALL_AS_BYTES)
    assert decode_response(*raw)["scores"].tobytes() == NOT_FINITE.tobytes()


def test_many_values_with_one_that_json_has_not_come_back() -> None:
    values = np.arange(2_000, dtype=np.float64)
    values[7] = np.nan
    content, json_length = encode_response({"scores": values}, model="m", version="v")
    np.testing.assert_array_equal(decode_response(content, json_length)["scores"], values)


def test_a_not_finite_input_is_named_by_its_place() -> None:
    with pytest.raises(InvalidInputError, match=r"input 'x'\[1\]\[0\] is -inf"):
        check_tensors({"x": np.array([[0, 1], [-np.inf, np.nan]], np.float32)}, signature("FP32", 2))

"""Inputs as models have them, from the body of a call through a session of onnxruntime to its predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from inferlane.contracts.record import JSON_LENGTH
from inferlane.contracts.wire.tensors import numpy_dtype
from inferlane.errors import ConfigurationError, DecodeError, InvalidInputError
from inferlane.runtime.config import load_settings
from models.artifact import takes_nan
from producer_api.http.request_schemas import predict_bodies
from tests.support.fakes.graphs import add_graph, answers, as_record, ask, catalog_of, edit_input, open_made, read
from tests.support.fakes.records import FakeRecord

NAN_ROW = '[[1.5, null], ["NaN", "Infinity"], ["-Infinity", 2]]'
ONE_TO_TWO = {"inputs": [("x", TensorProto.FLOAT, [None, 2])], "outputs": [("y", TensorProto.FLOAT, [None, 2])]}


def tree() -> NodeProto:
    """A tree of one split on the first feature: up to 1.0 it gives 10, over it 20, and 20 where it is missing."""
    return helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[1.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        nodes_missing_value_tracks_true=[0, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[10.0, 20.0],
    )


def add_tree(models_dir: Path) -> None:
    add_graph(
        models_dir,
        [tree()],
        inputs=[("x", TensorProto.FLOAT, [None, 2])],
        outputs=[("y", TensorProto.FLOAT, [None, 1])],
    )


def add_same(models_dir: Path, kind: int = TensorProto.FLOAT) -> None:
    """A model that answers what it was sent."""
    add_graph(
        models_dir,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[("x", kind, [None, 2])],
        outputs=[("y", kind, [None, 2])],
    )


def v2_json(name: str, datatype: str, shape: list[int], data: str) -> FakeRecord:
    return FakeRecord(
        value=f'{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}'.encode()
    )


def v2_binary(name: str, datatype: str, shape: list[int], raw: bytes) -> FakeRecord:
    entry = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [entry]}).encode()
    return FakeRecord(value=header + raw, headers=((JSON_LENGTH, str(len(header)).encode()),))


def test_a_tree_takes_missing_values_and_sends_them_its_own_way(tmp_path: Path) -> None:
    add_tree(tmp_path)
    assert takes_nan(tmp_path / "made" / "v1" / "model.onnx")
    assert ask(tmp_path, '[[0.5, 1], [1.5, null], [null, 1], ["NaN", 1], ["-Infinity", 0]]') == [
        [10.0],
        [20.0],
        [20.0],
        [20.0],
        [10.0],
    ]


def test_what_is_no_tree_refuses_missing_values_with_place_value_and_remedy(tmp_path: Path) -> None:
    add_same(tmp_path)
    assert not takes_nan(tmp_path / "made" / "v1" / "model.onnx")
    with pytest.raises(InvalidInputError, match=r"instances\[1\]\[0\] holds null; input 'x' takes FP32.*allow_nan"):
        as_record(tmp_path, "[[1, 2], [null, 3]]")
    model = open_made(tmp_path)
    raw = np.array([[1, 2], [3, np.nan]], np.float32).tobytes()
    with pytest.raises(InvalidInputError, match=r"input 'x'\[1\]\[1\] is nan; send finite numbers.*allow_nan"):
        read(model, v2_binary("x", "FP32", [2, 2], raw))
    with pytest.raises(DecodeError, match=r"'x'\[0\]\[1\] holds null"):
        read(model, v2_json("x", "FP32", [1, 2], "[1, null]"))


@pytest.mark.parametrize("allowed", [True, False])
def test_version_toml_says_it_over_the_graph(tmp_path: Path, *, allowed: bool) -> None:
    (add_same if allowed else add_tree)(tmp_path)
    edit_input(tmp_path, "x", allow_nan=allowed)
    spec = catalog_of(tmp_path).model("made").version("v1").signature.input("x")
    assert spec is not None
    assert spec.allow_nan is allowed


@pytest.mark.parametrize("more_rows", [0, 400])
def test_what_json_has_no_number_for_goes_in_and_comes_out_spelled_alike(tmp_path: Path, more_rows: int) -> None:
    add_same(tmp_path)
    edit_input(tmp_path, "x", allow_nan=True)
    rows = f"[{'[0.5, 0.25],' * more_rows}{NAN_ROW[1:]}"
    out = [[1.5, "NaN"], ["NaN", "Infinity"], ["-Infinity", 2.0]]
    assert ask(tmp_path, rows)[-3:] == out
    model = open_made(tmp_path)
    flat = f'[{"0.5, 0.25," * more_rows}1.5, null, "NaN", "Infinity", "-Infinity", 2]'
    assert answers(model, v2_json("x", "FP32", [more_rows + 3, 2], flat))[0][-3:] == out
    raw = np.array([[np.nan, -np.inf]], np.float32)
    raw.view(np.uint32)[0, 0] |= 7  # a NaN of its own bits
    request = read(model, v2_binary("x", "FP32", [1, 2], raw.tobytes()))
    assert model.run(request.tensors)["y"].tobytes() == raw.tobytes()


def test_a_number_that_no_double_holds_is_no_missing_value(tmp_path: Path) -> None:
    add_same(tmp_path)
    edit_input(tmp_path, "x", allow_nan=True)
    for bad, said in (("1e400", "1e400"), ("1e39", "1e[+]39"), ('"nan"', "'nan', a string"), ("true", "true")):
        with pytest.raises(InvalidInputError, match=rf"instances\[0\]\[1\] holds {said}; .*null or \"NaN\""):
            as_record(tmp_path, f"[[null, {bad}]]")


def test_the_document_of_the_api_says_which_inputs_take_missing_values(tmp_path: Path) -> None:
    add_tree(tmp_path)
    (body,) = predict_bodies(catalog_of(tmp_path), load_settings().api)["anyOf"]
    element = body["properties"]["instances"]["items"]["items"]
    assert element["anyOf"][1] == {"enum": [None, "NaN", "Infinity", "-Infinity"]}


TEXTS = [["a", ""], ["Grüße, 世界 😀", 'x"y\\z\n' * 20], ["\x00", "-"]]


@pytest.mark.parametrize("more_rows", [0, 400, 60_000])
def test_strings_come_back_as_they_were_sent_in_every_form(tmp_path: Path, more_rows: int) -> None:
    add_same(tmp_path, TensorProto.STRING)
    rows = [["a", "b"]] * more_rows + TEXTS
    model = open_made(tmp_path)
    flat = json.dumps([text for row in rows for text in row])
    raw = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for row in rows for text in row)
    records = [
        v2_json("x", "BYTES", [len(rows), 2], flat),
        v2_json("x", "BYTES", [len(rows), 2], json.dumps(rows)),
        v2_binary("x", "BYTES", [len(rows), 2], raw),
        FakeRecord(value=json.dumps({"instances": rows}).encode()),
    ]
    # What a graph does with a zero within a string is its own affair: what is read and written is compared.
    for record in records:
        request = read(model, record)
        assert request.rows == len(rows)
        assert request.tensors["x"].tolist()[-3:] == rows[-3:]
    if more_rows < 60_000:
        assert answers(model, *[as_record(tmp_path, rows[:-1])] * 2) == [rows[:-1]] * 2


def test_a_scalar_column_of_strings_and_one_of_numbers_are_fields_of_a_row(tmp_path: Path) -> None:
    add_graph(
        tmp_path,
        [helper.make_node("Identity", ["country"], ["label"]), helper.make_node("Identity", ["amount"], ["scaled"])],
        inputs=[("country", TensorProto.STRING, [None, 1]), ("amount", TensorProto.FLOAT, [None, 1])],
        outputs=[("label", TensorProto.STRING, [None, 1]), ("scaled", TensorProto.FLOAT, [None, 1])],
    )
    rows = [{"country": "DE", "amount": 12.5}, {"amount": [1], "country": ['F"R']}]
    assert ask(tmp_path, rows) == [{"label": ["DE"], "scaled": [12.5]}, {"label": ['F"R'], "scaled": [1.0]}]
    many = [{"country": "DE", "amount": 12.5}] * 300
    assert ask(tmp_path, many)[299] == {"label": ["DE"], "scaled": [12.5]}
    with pytest.raises(InvalidInputError, match=r"instances\[0\]\.country holds 3; input 'country' takes BYTES: send"):
        as_record(tmp_path, '[{"country": 3, "amount": 1}]')
    with pytest.raises(InvalidInputError, match="twice"):
        as_record(tmp_path, '[{"country": "a", "country": "b", "amount": 1}]')


def test_labels_of_text_are_answered_as_text(tmp_path: Path) -> None:
    encoder = helper.make_node(
        "LabelEncoder", ["x"], ["label"], domain="ai.onnx.ml", keys_int64s=[0, 1], values_strings=["ham", "spam"]
    )
    add_graph(
        tmp_path,
        [encoder],
        inputs=[("x", TensorProto.INT64, [None])],
        outputs=[("label", TensorProto.STRING, [None])],
    )
    assert ask(tmp_path, [0, 1, 1.0]) == ["ham", "spam", "spam"]


@pytest.mark.parametrize(
    ("shape", "raw", "says"),
    [
        ([1, 2], b"\x01\0\0\0a", "at least 8 bytes"),
        ([1, 2], b"\x01\0\0\0a\x09\0\0\0b", "string 1 ends at byte 18"),
        ([1, 2], b"\x01\0\0\0a\x01\0\0\0\xff", "string 1 is no UTF-8"),
        ([1, 2], b"\x01\0\0\0a\x01\0\0\0b!", "take 10 bytes, 11 were sent"),
        ([2**40], b"\x01\0\0\0a", "at least 4398046511104 bytes"),
    ],
)
def test_strings_that_are_not_as_their_lengths_say_are_refused(
    tmp_path: Path, shape: list[int], raw: bytes, says: str
) -> None:
    add_same(tmp_path, TensorProto.STRING)
    with pytest.raises(DecodeError, match=says):
        read(open_made(tmp_path), v2_binary("x", "BYTES", shape, raw))


KINDS = {
    "BOOL": TensorProto.BOOL,
    **{f"{sign}INT{bits}": getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}


@pytest.mark.parametrize("datatype", KINDS)
def test_every_datatype_goes_in_and_out_exactly(tmp_path: Path, datatype: str) -> None:
    add_same(tmp_path, KINDS[datatype])
    dtype = numpy_dtype(datatype)
    if dtype.kind == "b":
        ends = [True, False]
    elif dtype.kind == "f":
        ends = [float(np.finfo(dtype).max), float(np.finfo(dtype).smallest_normal)]
    else:
        ends = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
    rows = [ends, ends[::-1]]
    assert ask(tmp_path, rows) == rows
    model = open_made(tmp_path)
    raw = np.array(rows, dtype)
    assert answers(model, v2_binary("x", datatype, [2, 2], raw.tobytes())) == [rows]
    assert answers(model, v2_json("x", datatype, [2, 2], json.dumps(rows))) == [rows]


def add_softmax(models_dir: Path, rows: int | None, *, extra: str = "") -> None:
    add_graph(
        models_dir,
        [helper.make_node("Softmax", ["x"], ["y"], axis=-1)],
        inputs=[("x", TensorProto.FLOAT, [3] if rows is None else [rows, 3])],
        outputs=[("y", TensorProto.FLOAT, [3] if rows is None else [rows, 3])],
        extra=extra,
    )


def softmax(rows: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("rows_a_run", "extra"), [(1, ""), (4, ""), (None, "row_axis = false")])
def test_a_graph_of_so_many_rows_or_of_none_answers_any_number_of_them(
    tmp_path: Path, rows_a_run: int | None, extra: str
) -> None:
    add_softmax(tmp_path, rows_a_run, extra=extra)
    signature = catalog_of(tmp_path).model("made").version("v1").signature
    assert [spec.shape for spec in (*signature.inputs, *signature.outputs)] == [(-1, 3), (-1, 3)]
    model = open_made(tmp_path)
    for counts in ([1], [4], [7], [1, 2, 3, 5]):
        rows = [np.random.default_rng(count).standard_normal((count, 3)).round(3) for count in counts]
        found = answers(model, *[as_record(tmp_path, part.tolist()) for part in rows])
        for part, answer in zip(rows, found, strict=True):
            np.testing.assert_allclose(answer, softmax(part), rtol=1e-5)


def test_one_value_without_a_row_axis_is_a_row(tmp_path: Path) -> None:
    add_graph(
        tmp_path,
        [helper.make_node("Add", ["x", "x"], ["y"])],
        inputs=[("x", TensorProto.INT64, [])],
        outputs=[("y", TensorProto.INT64, [])],
        extra="row_axis = false",
    )
    assert ask(tmp_path, [3, 4, 5.0]) == [6, 8, 10]


def test_inputs_of_different_fixed_rows_are_refused_with_what_to_do(tmp_path: Path) -> None:
    add_graph(
        tmp_path,
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        inputs=[("a", TensorProto.FLOAT, [2, 3]), ("b", TensorProto.FLOAT, [3, 2])],
        outputs=[("y", TensorProto.FLOAT, [2, 2])],
    )
    with pytest.raises(ConfigurationError, match=r"\[2, 3\], whose first axis is neither free.*row_axis = false"):
        catalog_of(tmp_path)


COLUMNS = """
[[columns]]
name = "amount"

[[columns]]
name = "country"
categories = ["DE", "FR", "IT"]
default = "FR"

[[columns]]
name = "age"
default = 30
"""


def add_table(models_dir: Path, columns: str = COLUMNS) -> None:
    add_graph(
        models_dir,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, [None, 3])],
        outputs=[("y", TensorProto.FLOAT, [None, 3])],
    )
    path = models_dir / "made" / "v1" / "version.toml"
    path.write_text(path.read_text() + columns)


def test_rows_may_name_their_columns_and_leave_out_those_with_a_default(tmp_path: Path) -> None:
    add_table(tmp_path)
    rows = [{"amount": 12.5, "country": "DE", "age": 41}, {"country": "IT", "amount": 3}, {"amount": 0, "age": None}]
    assert ask(tmp_path, rows) == [[12.5, 0.0, 41.0], [3.0, 2.0, 30.0], [0.0, 1.0, 30.0]]
    assert ask(tmp_path, [[1, 2, 3]]) == [[1.0, 2.0, 3.0]]
    (body,) = predict_bodies(catalog_of(tmp_path), load_settings().api)["anyOf"]
    listed, named = body["properties"]["instances"]["items"]["anyOf"]
    assert (listed["minItems"], named["required"]) == (3, ["amount"])
    assert named["properties"]["country"]["anyOf"][0] == {"enum": ["DE", "FR", "IT"]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"country": "DE"}', r"instances\[0\].amount is missing.*no default for the column 'amount'"),
        ('{"amount": null}', r"instances\[0\].amount is missing"),
        ('{"amount": "12"}', r"instances\[0\].amount holds '12', a string; input 'x' takes FP32"),
        ('{"amount": 1, "country": "XX"}', r"instances\[0\].country holds 'XX'; .*takes one of: 'DE', 'FR', 'IT'"),
        ('{"amount": 1, "country": 1}', r"country holds 1; .*takes one of"),
        ('{"amount": 1, "colour": 2}', r"has the field 'colour'.*the columns are: 'age', 'amount', 'country'"),
        ('{"amount": 1, "amount": 2}', "twice"),
        ('{"amount": 1}, [1, 2, 3]', r"instances\[1\] is a list"),
    ],
)
def test_a_column_that_does_not_fit_is_named_with_row_value_and_remedy(tmp_path: Path, row: str, says: str) -> None:
    add_table(tmp_path)
    with pytest.raises(InvalidInputError, match=says):
        as_record(tmp_path, f"[{row}]")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ('[[columns]]\nname = "a"\n', r"names 1 columns.*x FP32 \[-1, 3\]"),
        ('[[columns]]\nname = "a"\n' * 3, "names a column twice"),
        (COLUMNS.replace('"FR"\n', '"XX"\n'), "default of the column 'country' is 'XX'"),
    ],
)
def test_columns_that_are_not_those_of_the_input_are_refused(tmp_path: Path, columns: str, says: str) -> None:
    add_table(tmp_path, columns)
    with pytest.raises(ConfigurationError, match=says):
        catalog_of(tmp_path)

"""Rows of different lengths: filled up to share a batch, and answered as if they were alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from inferlane.contracts.catalog_entry import decode_entry, encode_entry
from inferlane.contracts.record import JSON_LENGTH
from inferlane.errors import ConfigurationError, InferlaneError, InvalidInputError, PayloadTooLargeError
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from models.catalog_entries import entry_of_store, version_of_entry
from producer_api.inference_protocol.infer_request import InferReader
from producer_api.predict.call import CallReader
from producer_api.predict.call_options import CallOrigin
from tests.support.fakes.graphs import add_graph, answers, as_record, ask, catalog_of, edit_input, open_made, read
from tests.support.fakes.records import FakeRecord
from workers.batching import by_length

TABLE = np.arange(20, dtype=np.float32).reshape(10, 2)


def add_encoder(models_dir: Path, *, masked: bool = True) -> None:
    """Tokens to their vectors, and to the mean of those: over all that the mask keeps, or over all."""
    tokens, mask = ("input_ids", "attention_mask") if masked else ("tokens", "unused")
    nodes = [helper.make_node("Gather", ["table", tokens], ["hidden"])]
    if masked:
        nodes += [
            helper.make_node("Cast", [mask], ["kept"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["kept", "last"], ["weights"]),
            helper.make_node("Mul", ["hidden", "weights"], ["weighted"]),
            helper.make_node("ReduceSum", ["weighted", "middle"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["weights", "middle"], ["count"], keepdims=0),
            helper.make_node("Max", ["count", "one"], ["safe"]),
            helper.make_node("Div", ["sum", "safe"], ["pooled"]),
        ]
    else:
        nodes += [helper.make_node("ReduceMean", ["hidden", "middle"], ["pooled"], keepdims=0)]
    add_graph(
        models_dir,
        nodes,
        inputs=[(name, TensorProto.INT64, ["rows", "length"]) for name in ([tokens, mask] if masked else [tokens])],
        outputs=[
            ("hidden", TensorProto.FLOAT, ["rows", "length", 2]),
            ("pooled", TensorProto.FLOAT, ["rows", 2]),
        ],
        initializers=[
            numpy_helper.from_array(TABLE, "table"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "middle"),
            numpy_helper.from_array(np.ones(1, np.float32), "one"),
        ],
    )


def expected(tokens: list[int]) -> Any:
    return {"hidden": TABLE[tokens].tolist(), "pooled": TABLE[tokens].mean(axis=0).tolist()}


def test_requests_of_different_lengths_share_a_batch_and_get_their_own_answers(tmp_path: Path) -> None:
    add_encoder(tmp_path)
    texts = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [0, 9]]
    model = open_made(tmp_path)
    records = [as_record(tmp_path, [{"input_ids": text, "attention_mask": [1] * len(text)}]) for text in texts]
    for text, (answer,) in zip(texts, answers(model, *records), strict=True):
        assert answer["hidden"] == expected(text)["hidden"]
        assert answer["pooled"] == pytest.approx(expected(text)["pooled"])


def test_rows_of_different_lengths_in_one_request_need_no_mask(tmp_path: Path) -> None:
    add_encoder(tmp_path)
    texts = [[1, 2, 3], [4], [5.0, 6]]
    found = ask(tmp_path, [{"input_ids": text} for text in texts])
    for text, answer in zip(texts, found, strict=True):
        assert answer["pooled"] == pytest.approx(expected([int(token) for token in text])["pooled"])
    signature = catalog_of(tmp_path).model("made").version("v1").signature
    assert [(spec.name, spec.pad, spec.mask_of) for spec in signature.inputs] == [
        ("input_ids", 0, None),
        ("attention_mask", 0, "input_ids"),
    ]


def test_only_lengths_that_are_near_share_a_batch(tmp_path: Path) -> None:
    add_encoder(tmp_path)
    model = open_made(tmp_path)
    lengths = [1, 2, 3, 9, 15, 16, 200]
    requests = [read(model, as_record(tmp_path, [{"input_ids": [1] * length}])) for length in lengths]
    groups = by_length(requests, model.version.signature)
    assert [[request.tensors["input_ids"].shape[1] for request in group] for group in groups] == [
        [1],
        [2, 3],
        [9, 15],
        [16],
        [200],
    ]


def test_without_pad_only_one_length_shares_a_batch_or_a_request(tmp_path: Path) -> None:
    add_encoder(tmp_path, masked=False)
    model = open_made(tmp_path)
    requests = [read(model, as_record(tmp_path, [row, row])) for row in ([1, 2], [3, 4], [5, 6, 7])]
    assert [len(group) for group in by_length(requests, model.version.signature)] == [2, 1]
    assert ask(tmp_path, [[1, 2, 3]]) == [expected([1, 2, 3])]
    with pytest.raises(InvalidInputError, match=r"instances\[1\] has shape \[1\] and another row \[2\].*no `pad`"):
        as_record(tmp_path, [[1, 2], [3]])


def test_a_pad_that_changes_answers_is_found_before_the_version_serves(tmp_path: Path) -> None:
    add_encoder(tmp_path, masked=False)
    edit_input(tmp_path, "tokens", pad=3)
    with pytest.raises(ConfigurationError, match=r"filled up with `pad`.*pooled is.*mask_of"):
        open_made(tmp_path)


def add_sum(models_dir: Path, axes: tuple[str, str]) -> None:
    """The sum of two inputs, of one length in each row."""
    add_graph(
        models_dir,
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        inputs=[(name, TensorProto.FLOAT, ["rows", axis]) for name, axis in zip("ab", axes, strict=True)],
        outputs=[("sum", TensorProto.FLOAT, ["rows", None])],
    )


def test_inputs_whose_axis_has_one_name_in_the_graph_have_one_length(tmp_path: Path) -> None:
    """Guards the names of axes from the file of the graph to the check of a request: the graph itself would fail."""
    add_sum(tmp_path, ("length", "length"))

    assert ask(tmp_path, [{"a": [1, 2, 3], "b": [1, 1, 1]}]) == [[2.0, 3.0, 4.0]]
    with pytest.raises(InvalidInputError, match=r"instances\[0\]: 'b' has the length 2 on its axis 'length', and 'a'"):
        as_record(tmp_path, [{"a": [1, 2, 3], "b": [1, 1]}])


def test_axes_of_other_names_may_have_other_lengths(tmp_path: Path) -> None:
    add_sum(tmp_path, ("length", "other"))

    assert ask(tmp_path, [{"a": [1, 2, 3], "b": [1]}]) == [[2.0, 3.0, 4.0]]


def test_the_names_of_axes_reach_whoever_has_only_the_catalogue_topic(tmp_path: Path) -> None:
    add_sum(tmp_path, ("length", "length"))
    entry = entry_of_store(tmp_path, "made", "v1", generation=1, default_since=1)

    found = version_of_entry(decode_entry(encode_entry(entry))).signature
    assert [spec.axes for spec in found.inputs] == [("rows", "length"), ("rows", "length")]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            '[{"input_ids": [1, "a"]}]',
            r"instances\[0\]\.input_ids\[1\] holds 'a', a string; input 'input_ids' takes",
        ),
        ('[{"input_ids": [1, 1.5]}]', r"instances\[0\]\.input_ids\[1\] holds 1.5"),
        ('[{"input_ids": [1, true]}]', r"instances\[0\]\.input_ids\[1\] holds true"),
        ('[{"input_ids": [[1]]}]', r"instances\[0\]\.input_ids\[0\] holds a list"),
        ('[{"attention_mask": [1]}]', r"instances\[0\] has no field 'input_ids'"),
        ('[{"input_ids": [1], "other": [1]}]', r"has the field 'other'"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(tmp_path: Path, rows: str, says: str) -> None:
    add_encoder(tmp_path)
    with pytest.raises(InvalidInputError, match=says):
        as_record(tmp_path, rows)


def test_one_long_row_among_many_short_ones_is_not_filled_up_without_bound(tmp_path: Path) -> None:
    add_encoder(tmp_path)
    rows = [{"input_ids": [1]}] * 2_000 + [{"input_ids": [1] * 20_000}]
    with pytest.raises(PayloadTooLargeError, match="requests of their own"):
        as_record(tmp_path, rows)


def test_an_infer_call_of_v2_may_have_any_length_and_no_mask(tmp_path: Path) -> None:
    add_encoder(tmp_path)
    calls = CallReader(
        load_settings().api,
        load_settings().kafka,
        load_settings().webhooks,
        catalog=catalog_of(tmp_path),
        splits=SplitTable(),
        clock=SystemClock(),
    )
    reader = InferReader(load_settings().api, calls)
    scope = {"path": "/v2/models/made/infer", "headers": []}
    body = b'{"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, %d], "data": [1, 2, 3]}]}'
    call = reader.read(scope, body % 3, CallOrigin())
    record = FakeRecord(value=call.payload, headers=((JSON_LENGTH, str(call.json_length).encode()),))
    ((answer,),) = answers(open_made(tmp_path), record)
    assert answer["pooled"] == pytest.approx(expected([1, 2, 3])["pooled"])
    with pytest.raises(InferlaneError, match=r"\[1, 4\], which is 4 values"):
        reader.read(scope, body % 4, CallOrigin())

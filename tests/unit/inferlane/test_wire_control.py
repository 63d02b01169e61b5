"""What a body says beside its numbers is heeded or refused, never ignored."""

import json
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import JSON_LENGTH
from inferlane.contracts.wire.v1 import read_instances_body
from inferlane.contracts.wire.v2 import decode_response
from inferlane.errors import DecodeError, InferlaneError, InvalidInputError
from tests.support.decoding import decode
from tests.support.fakes.records import FakeRecord, make_version
from workers.batching import InferredRequest, RunTimes
from workers.replies import ReplyBuilder
from workers.requests import Request

VERSION = make_version()
ROW = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
RAW = np.float32([[5.1, 3.5, 1.4, 0.2]]).tobytes()
OUTPUTS = {"label": np.int64([2]), "probabilities": np.float32([[0.1, 0.2, 0.7]])}


def read(body: dict[str, Any] | bytes, *, raw: bytes = b"") -> Request:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = ((JSON_LENGTH, str(len(value)).encode()),) if raw else ()
    return decode(FakeRecord(value=value + raw, headers=headers), Lane.REQUESTS, VERSION)


def answer(request: Request) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON part of the answer, and its tensors."""
    replies = ReplyBuilder(VERSION, names=Names(), max_result_bytes=1 << 20, results_sample=0.0)
    result = replies.of_inferred(InferredRequest(request, OUTPUTS), RunTimes(started_s=1.0, ended_s=2.0)).result
    return json.loads(result.content[: result.json_length]), decode_response(result.content, result.json_length)


def test_the_answer_has_the_id_of_the_request_and_else_the_records() -> None:
    assert answer(read({"id": "mine", "inputs": [ROW]}))[0]["id"] == "mine"
    assert answer(read({"inputs": [ROW]}))[0]["id"] == read({"inputs": [ROW]}).headers.request_id
    binary = {"id": "mine", "inputs": [ROW], "parameters": {"binary_data_output": True}}
    assert answer(read(binary))[0]["id"] == "mine"


@pytest.mark.parametrize(
    "names", [["label"], ["probabilities"], ["probabilities", "label"], ["label", "probabilities"], []]
)
@pytest.mark.parametrize("binary", [True, False])
def test_the_outputs_that_were_asked_for_come_in_their_order(names: list[str], binary: bool) -> None:
    body = {
        "inputs": [ROW],
        "outputs": [{"name": name} for name in names],
        "parameters": {"binary_data_output": binary},
    }
    head, tensors = answer(read(body))
    assert [entry["name"] for entry in head["outputs"]] == (names or list(OUTPUTS))
    assert all(("data" in entry) is not binary for entry in head["outputs"])
    for name in names:
        np.testing.assert_array_equal(tensors[name], OUTPUTS[name])


@pytest.mark.parametrize("default", [True, False])
def test_each_output_is_bytes_or_json_as_it_was_asked_for(default: bool) -> None:
    body = {
        "inputs": [ROW],
        "outputs": [
            {"name": "probabilities", "parameters": {"binary_data": not default}},
            {"name": "label"},
        ],
        "parameters": {"binary_data_output": default},
    }
    head, tensors = answer(read(body))
    assert ["data" in entry for entry in head["outputs"]] == [default, not default]
    for name, array in OUTPUTS.items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": [ROW], "outputs": [{"name": "nobody"}]}, "no output 'nobody'; its outputs are: label, prob"),
        ({"inputs": [ROW], "outputs": [{"name": "label"}] * 2}, "two of the outputs are called 'label'"),
        ({"inputs": [ROW], "outputs": [{"name": "label", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": [ROW, ROW]}, "two of the inputs are called 'input'"),
        ({"inputs": [ROW], "model": "digits"}, "names the model 'digits', and the record came to iris v1"),
        ({"inputs": [ROW], "model_name": "digits"}, "'digits'"),
        ({"inputs": [ROW], "model_version": "v2"}, "names the version 'v2'"),
        ({"inputs": [ROW], "version": "v2"}, "ce_modelversion"),
        ({"inputs": [ROW], "model": "iris", "model_name": "digits"}, "names two of a model"),
        ({"inputs": [ROW], "parameters": {"priority": 1}}, "priority"),
        ({"inputs": [ROW], "timeout": 3}, "timeout"),
        ({"inputs": [{**ROW, "parameters": {"shared_memory_region": "a"}}]}, "shared_memory_region"),
        ({"inputs": [ROW], "id": 7}, "id"),
        ({"inputs": [ROW], "id": "x" * 600}, "512"),
        ({"instances": [[1, 2, 3, 4]], "model": "digits"}, "names the model 'digits'"),
        ({"instances": [[1, 2, 3, 4]], "version": "v2"}, "names the version 'v2'"),
        ({"instances": [[1, 2, 3, 4]], "routing_key": "u"}, "routing_key"),
        ({"instances": [[1, 2, 3, 4]], "deadline_s": 1}, "deadline_s"),
        ({"instances": [[1, 2, 3, 4]], "signature_name": "other"}, "signature_name"),
        ({"instances": [[1, 2, 3, 4]], "inputs": [ROW]}, "inputs"),
    ],
)
def test_what_cannot_be_heeded_is_refused_by_name(body: dict[str, Any], says: str) -> None:
    with pytest.raises((DecodeError, InvalidInputError), match=says.replace("[", r"\[")):
        read(body)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [ROW], "model": "iris", "model_name": "iris", "version": "v1", "model_version": ""},
        {"inputs": [ROW], "model": None, "id": None, "parameters": {"content_type": "np"}},
        {"inputs": [{**ROW, "parameters": {"content_type": "np"}}]},
        {"instances": [[1, 2, 3, 4]], "model": "iris", "version": "v1"},
        {"instances": [[1, 2, 3, 4]], "model": None},
    ],
)
def test_names_of_who_answers_are_welcome(body: dict[str, Any]) -> None:
    assert read(body).rows == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1,2,3,4]], "instances": [[5,6,7,8]]}',
        b'{"instances": [[1,2,3,4]], "model": "digits", "model": "iris"}',
        b'{"instances": [[1,2,3,4]], "model": "digits", "mod\\u0065l": "iris"}',
        b'{"id": "a", "id": "b", "inputs": [' + json.dumps(ROW).encode() + b"]}",
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1,2,3,4], "data": [5,6,7,8]}]}',
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 3], "shape": [1, 4], "data": [1,2,3,4]}]}',
    ],
)
def test_a_field_that_is_there_twice_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError, match="twice"):
        read(body)


def test_fields_of_rows_are_no_fields_of_the_body() -> None:
    rows = '[{"age": 1, "features": [1, 2]}, {"age": 2, "features": [3, 4]}]'
    for value in (f'{{"instances": {rows}, "model": "m"}}', f'{{"model": "m", "instances": {rows}}}'):
        body = read_instances_body(value.encode())
        assert body is not None
        assert (json.loads(bytes(body.instances)), body.model) == (json.loads(rows), "m")
    with pytest.raises(DecodeError, match="twice"):
        read_instances_body(f'{{"instances": {rows}, "instances": {rows}}}'.encode())
    with pytest.raises(DecodeError, match="twice"):
        read_instances_body(f'{{"instances": {rows}, "model": "a", "model": "b"}}'.encode())


def test_a_quote_within_a_string_is_no_field() -> None:
    body = {"id": 'a "id": b \\', "inputs": [ROW]}
    assert answer(read(body))[0]["id"] == body["id"]


def test_both_data_and_bytes_are_refused() -> None:
    both = {"inputs": [{**ROW, "parameters": {"binary_data_size": 16}}]}
    with pytest.raises(InferlaneError, match="both"):
        read(both, raw=RAW)
    del both["inputs"][0]["data"]
    assert read(both, raw=RAW).tensors["input"].tobytes() == RAW

"""Infer calls: what their bodies may say, what becomes of it, and how the response is written."""

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2 import decode_request, encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.errors import InferlaneError
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from producer_api.http.asgi import PlainResponse
from producer_api.http.error_responses import UnauthorizedError, UnconfirmedError, status_of
from producer_api.http.responses import compressed, error_response, preferred_coding
from producer_api.inference_protocol.infer_format import V2Format, classify, is_infer
from producer_api.inference_protocol.infer_request import InferReader
from producer_api.predict.call import Call, CallReader
from producer_api.predict.call_options import CallOrigin
from tests.support.fakes.records import make_catalog

SETTINGS = load_settings()
CATALOG = make_catalog(models=("iris", "other"))
CALLS = CallReader(
    SETTINGS.api, SETTINGS.kafka, SETTINGS.webhooks, catalog=CATALOG, splits=SplitTable(), clock=SystemClock()
)
FORMAT = V2Format(InferReader(SETTINGS.api, CALLS), CATALOG)
ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
INPUT = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": ROWS.ravel().tolist()}
SCORES = np.array([[0.7, 0.2, 0.1], [0.0, 0.1, 0.9]], np.float32)


def scope(path: str = "/v2/models/iris/infer", **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"path": path, "headers": named}


def read(body: Any, path: str = "/v2/models/iris/infer", origin: CallOrigin | None = None) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FORMAT.read(scope(path), raw, origin or CallOrigin())


def tensors_of(call: Call) -> dict[str, np.ndarray]:
    return decode_request(call.payload, call.json_length).tensors


def answered(body: dict[str, Any]) -> PlainResponse:
    """The response when a worker has answered the call."""
    call = read(body)
    content, json_length = encode_response(
        {"label": np.array([0, 2]), "probabilities": SCORES}, model="iris", version="v2", form=ALL_AS_BYTES
    )
    result = Result(
        request_id=call.request_id,
        status=Status.SUCCEEDED,
        model="iris",
        version="v2",
        content=content,
        json_length=json_length,
    )
    return FORMAT.result_response(call, result)


def test_rows_as_json_flat_or_nested_are_those_of_the_record() -> None:
    nested = {**INPUT, "data": ROWS.tolist()}
    for call in (read({"inputs": [INPUT]}), read({"inputs": [nested]})):
        assert (call.model, call.version) == ("iris", None)
        assert np.array_equal(tensors_of(call)["input"], ROWS)


def test_rows_as_bytes_follow_the_json_part() -> None:
    entry = {"name": "input", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": ROWS.nbytes}}
    head = json.dumps({"inputs": [entry]}).encode()
    where = scope("/v2/models/iris/versions/v2/infer", inference_header_content_length=str(len(head)))
    call = FORMAT.read(where, head + ROWS.tobytes(), CallOrigin())
    assert call.version == "v2"
    assert np.array_equal(tensors_of(call)["input"], ROWS)


def test_parameters_say_how_long_and_by_which_key() -> None:
    call = read({"inputs": [INPUT], "parameters": {"timeout_s": 3, "deadline_s": 9, "routing_key": "u"}})
    assert (call.wait_s, call.routing_key) == (3.0, "u")
    assert call.deadline_s - call.accepted_s == pytest.approx(9)


def test_the_timeout_of_triton_is_the_deadline_and_the_wait_lasts_until_then() -> None:
    call = read({"inputs": [INPUT], "parameters": {"timeout": 2_500_000, "priority": 0, "lane": "requests"}})
    assert call.deadline_s - call.accepted_s == pytest.approx(2.5)
    assert call.wait_s == pytest.approx(2.5)
    far = read({"inputs": [INPUT], "parameters": {"deadline_s": SETTINGS.api.max_wait_s + 100}})
    assert far.wait_s == SETTINGS.api.max_wait_s
    assert read({"inputs": [INPUT]}, origin=CallOrigin(wait_s=1.0)).wait_s == 1.0


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"inputs": [], "inputs": []}', 400, "no inputs"),
        (json.dumps({"inputs": [INPUT]}).encode()[:-1] + b', "id": "a", "id": "b"}', 400, "twice"),
        (b"{", 400, "not an Open Inference Protocol V2 request"),
        ({"inputs": []}, 400, "no inputs"),
        ({"inputs": [INPUT], "more": 1}, 400, "more"),
        ({"inputs": [INPUT], "parameters": {"x": 1}}, 400, "x"),
        ({"inputs": [INPUT], "parameters": {"priority": 1}}, 400, "priority"),
        ({"inputs": [INPUT], "parameters": {"lane": "bulk"}}, 400, "lane"),
        ({"inputs": [INPUT], "parameters": {"timeout": 1, "deadline_s": 1}}, 422, "both"),
        ({"inputs": [INPUT], "parameters": {"timeout_s": 1e9}}, 422, "timeout_s"),
        ({"inputs": [INPUT], "parameters": {"deadline_s": -1}}, 422, "deadline_s is -1"),
        ({"inputs": [INPUT], "parameters": {"timeout": 10**18}}, 422, "deadline_s is 1000000000000"),
        ({"inputs": [INPUT], "model_name": "other"}, 422, "other"),
        ({"inputs": [INPUT], "model_version": "v1"}, 422, "v1"),
        ({"inputs": [{**INPUT, "name": "x"}]}, 422, "no input is called 'x'"),
        ({"inputs": [{**INPUT, "datatype": "INT32", "data": [1] * 8}]}, 422, "must be FP32"),
        ({"inputs": [{**INPUT, "datatype": "FP128"}]}, 400, "FP128"),
        ({"inputs": [{**INPUT, "shape": [4, 2]}]}, 422, "shape"),
        ({"inputs": [{**INPUT, "shape": [3, 4]}]}, 400, "shape"),
        ({"inputs": [{**INPUT, "shape": [SETTINGS.api.max_rows + 1, 4], "data": []}]}, 413, "rows"),
        ({"inputs": [INPUT], "outputs": [{"name": "x"}]}, 422, "no output is called 'x'"),
        (
            {"inputs": [INPUT], "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
            422,
            "classification",
        ),
    ],
)
def test_what_is_wrong_is_named(body: Any, status: int, says: str) -> None:
    with pytest.raises(InferlaneError, match=says) as caught:
        read(body)
    assert status_of(caught.value) == status
    assert caught.value.asked_for == ("iris", None)
    response = error_response(caught.value, "/v2/models/iris/infer")
    assert (response.status, response.content_type) == (status, b"application/json")
    assert json.loads(response.body) == {"error": str(caught.value)}


@pytest.mark.parametrize("length", ["x", "-1", "", "9" * 30, "1000000"])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(InferlaneError):
        FORMAT.read(
            scope(inference_header_content_length=length), json.dumps({"inputs": [INPUT]}).encode(), CallOrigin()
        )


def test_the_response_has_the_id_of_the_request_or_that_of_the_result() -> None:
    assert json.loads(answered({"inputs": [INPUT], "id": "mine"}).body)["id"] == "mine"
    response = answered({"inputs": [INPUT]})
    own = json.loads(response.body)
    assert response.content_type == b"application/json"
    assert len(own["id"]) == 32
    assert (own["model_name"], own["model_version"]) == ("iris", "v2")
    assert [output["name"] for output in own["outputs"]] == ["label", "probabilities"]
    assert own["outputs"][0]["data"] == [0, 2]


def test_outputs_come_in_the_order_and_form_that_were_asked_for() -> None:
    asked = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]
    status, body, content_type, headers = answered({"inputs": [INPUT], "outputs": asked})
    length = int(dict(headers)[b"inference-header-content-length"])
    head = json.loads(body[:length])
    assert (status, content_type) == (200, b"application/octet-stream")
    assert [output["name"] for output in head["outputs"]] == ["probabilities", "label"]
    assert np.array_equal(np.frombuffer(body[length:], np.float32).reshape(2, 3), SCORES)
    assert head["outputs"][1]["data"] == [0, 2]


def test_binary_data_output_is_for_every_output_that_says_nothing() -> None:
    asked = {"inputs": [INPUT], "parameters": {"binary_data_output": True}}
    _, body, _, headers = answered(asked)
    head = json.loads(body[: int(dict(headers)[b"inference-header-content-length"])])
    assert len(head["id"]) == 32
    outputs = head["outputs"]
    assert [output["parameters"]["binary_data_size"] for output in outputs] == [16, SCORES.nbytes]


def test_classification_gives_the_best_classes_as_text() -> None:
    asked = [{"name": "probabilities", "parameters": {"classification": 2}}]
    (output,) = json.loads(answered({"inputs": [INPUT], "outputs": asked}).body)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == [
        "0.700000:0:setosa",
        "0.200000:1:versicolor",
        "0.900000:2:virginica",
        "0.100000:1:versicolor",
    ]
    assert classify(np.array([[1, 3]], np.uint8), 5, ()).tolist() == [["3.000000:1", "1.000000:0"]]


def test_a_wait_that_ran_out_names_the_request_and_where_its_result_will_be() -> None:
    call = read({"inputs": [INPUT]})
    status, body, _, headers = FORMAT.queued_response(call)
    assert status == 504
    assert dict(headers)[b"location"] == f"/v1/predictions/{call.request_id}".encode()
    assert call.request_id in json.loads(body)["error"]


def test_a_request_that_failed_is_an_error_of_the_protocol() -> None:
    call = read({"inputs": [INPUT]})
    failed = Result(
        request_id=call.request_id,
        status=Status.EXPIRED,
        model="iris",
        version="v1",
        error_code="deadline_exceeded",
        error_detail="too late",
    )
    status, body, _, _ = FORMAT.result_response(call, failed)
    assert (status, json.loads(body)) == (504, {"error": "too late"})


def test_one_key_stands_for_one_body_of_one_model() -> None:
    prints = {
        FORMAT.fingerprinted(scope("/v2/models/iris/infer"), b"x"),
        FORMAT.fingerprinted(scope("/v2/models/other/infer"), b"x"),
        FORMAT.fingerprinted(scope("/v2/models/iris/infer", inference_header_content_length="1"), b"x"),
    }
    assert len(prints) == 3


def test_errors_of_other_paths_stay_problem_documents() -> None:
    error = UnauthorizedError("no key")
    assert error_response(error, "/v1/models").content_type == b"application/problem+json"
    assert error_response(error, "/v2x").content_type == b"application/problem+json"
    response = error_response(error, "/v2")
    assert json.loads(response.body) == {"error": "no key"}
    assert b"www-authenticate" in dict(response.headers)
    unconfirmed = error_response(UnconfirmedError("not known", request_id="abc"), "/v2/models/iris/infer")
    assert "abc" in json.loads(unconfirmed.body)["error"]
    assert b"retry-after" in dict(unconfirmed.headers)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/v2/models/iris/infer", True),
        ("/v2/models/iris/versions/v1/infer", True),
        ("/v2/models//infer", False),
        ("/v2/models/a/b/infer", False),
        ("/v2/models/iris/infer/", False),
        ("/v1/models/iris/infer", False),
    ],
)
def test_paths_of_infer_calls(path: str, is_one: bool) -> None:
    assert is_infer(path) is is_one


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate, gzip", b"gzip"),
        (b"gzip;q=0.5, deflate", b"deflate"),
        (b"GZIP ; q=0.1", b"gzip"),
        (b"*", b"gzip"),
        (b"gzip;q=0, *", b"deflate"),
        (b"gzip;q=0", None),
        (b"identity, gzip;q=0.5", None),
        (b"br", None),
        (b"gzip;q=x", None),
        (b"", None),
    ],
)
def test_the_coding_that_the_client_prefers(accepted: bytes, coding: bytes | None) -> None:
    assert preferred_coding(accepted) == coding


@pytest.mark.parametrize("size", [2_000, 100_000])
async def test_a_response_is_compressed_where_that_is_asked(size: int) -> None:
    response = PlainResponse(200, b"x" * size, b"application/json")
    for coding, expand in ((b"gzip", gzip.decompress), (b"deflate", zlib.decompress)):
        packed = await compressed(response, coding)
        assert dict(packed.headers) == {b"content-encoding": coding, b"vary": b"accept-encoding"}
        assert expand(packed.body) == response.body
        assert len(packed.body) < size / 10


async def test_a_small_response_stays_as_it_is_and_a_large_one_says_that_its_form_varies() -> None:
    small = PlainResponse(200, b"{}", b"application/json")
    assert await compressed(small, b"gzip") is small
    large = PlainResponse(200, b"x" * 5_000, b"application/json")
    for accepted in (None, b"br"):
        assert await compressed(large, accepted) == large._replace(headers=((b"vary", b"accept-encoding"),))

"""`POST /v1/embeddings`: bodies as OpenAI's clients send them, read or refused, and results in OpenAI's shape."""

import base64
import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.row_texts import text_of
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.contracts.wire.v2 import decode_request, encode_response
from inferlane.errors import DecodeError, InferlaneError, InvalidRequestError
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from models.catalog import Catalog
from producer_api.http.asgi import EMBEDDINGS_PATH
from producer_api.http.auth import Scope, required_scope
from producer_api.http.openai_schemas import embeddings_bodies
from producer_api.http.responses import error_response
from producer_api.predict.call import Call, CallReader
from producer_api.predict.call_options import CallOrigin
from producer_api.predict.embeddings_format import EmbeddingsFormat
from tests.support.fakes.records import make_catalog, make_version

TEXT = TensorSpec(name="text", datatype="BYTES", shape=(-1, 1))
EMBEDDING = TensorSpec(name="embedding", datatype="FP32", shape=(-1, 3))
TOKENS = TensorSpec(name="tokens", datatype="UINT32", shape=(-1,))
SENTENCES = Signature(inputs=(TEXT,), outputs=(EMBEDDING, TOKENS))
VECTORS = np.array([[0.6, 0.8, 0.0], [0.0, -1.0, 0.0]], np.float32)


def catalog_of(signature: Signature) -> Catalog:
    made = make_catalog("v1", models=("sentences",))
    version = replace(make_version("v1", "sentences"), signature=signature, classes=())
    model = replace(made.model("sentences"), versions={"v1": version})
    return Catalog(models={"sentences": model}, default_model="sentences")


def embeddings(signature: Signature = SENTENCES, **settings: Any) -> EmbeddingsFormat:
    loaded, splits = load_settings(**settings), SplitTable()
    reader = CallReader(
        loaded.api, loaded.kafka, loaded.webhooks, catalog=catalog_of(signature), splits=splits, clock=SystemClock()
    )
    return EmbeddingsFormat(loaded.api, reader)


def read(body: dict[str, Any], origin: CallOrigin | None = None) -> Call:
    return embeddings().read({}, json.dumps({"model": "sentences", **body}).encode(), origin or CallOrigin())


def rows_of(call: Call) -> list[Any]:
    rows: list[Any] = decode_request(call.payload, call.json_length, SENTENCES).tensors["text"].tolist()
    return rows


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("one", [["one"]]),
        (["one", "two"], [["one"], ["two"]]),
        ("", [[""]]),
        ([1, 2], [[text_of([1, 2])]]),
        ([[1, 2], [3]], [[text_of([1, 2])], [text_of([3])]]),
    ],
)
def test_texts_and_tokens_become_rows_of_text(given: Any, rows: list[Any]) -> None:
    assert rows_of(read({"input": given})) == rows


def test_a_version_is_pinned_after_a_slash() -> None:
    assert read({"input": "a", "model": "sentences/v1"}).version == "v1"
    assert read({"input": "a"}).version is None


def test_a_call_waits_as_long_as_calls_may_unless_it_says_less() -> None:
    assert read({"input": "a"}).wait_s == load_settings().api.max_wait_s
    assert read({"input": "a"}, CallOrigin(wait_s=2.0)).wait_s == 2.0
    assert read({"input": "a"}, CallOrigin(wait_s=1e6)).wait_s == load_settings().api.max_wait_s


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "missing required field `input`"),
        ({"input": None}, "input"),
        ({"input": []}, "empty list"),
        ({"input": [[]]}, r"input\[0\] is an empty list"),
        ({"input": ["a", 1]}, "mixes texts and tokens"),
        ({"input": [[1], 1]}, "mixes texts and tokens"),
        ({"input": [-1]}, ">= 0"),
        ({"input": [1.5]}, "input"),
        ({"input": [["a"]]}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 2}, "the embeddings of 'sentences' have 3 numbers"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "model": ""}, "model"),
        ({"input": "a", "model": "others"}, "no model 'others'"),
        ({"input": "a", "model": "sentences/v9"}, "no version 'v9'"),
        ({"input": "a", "more": 1}, "more"),
    ],
)
def test_what_is_no_embeddings_call_is_refused_with_the_reason(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        read(body)


def test_a_call_that_is_refused_says_which_model_it_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read({"input": "a", "model": "sentences", "dimensions": 999})
    assert caught.value.asked_for == ("sentences", None)


def test_a_field_that_is_there_twice_is_refused() -> None:
    with pytest.raises(DecodeError, match="twice"):
        embeddings().read({}, b'{"model": "sentences", "input": "a", "input": "b"}', CallOrigin())


def test_the_limit_of_rows_counts_texts() -> None:
    with pytest.raises(InvalidRequestError, match="3 rows in one request, the limit is 2"):
        embeddings(max_rows=2).read({}, b'{"model": "sentences", "input": ["a", "b", "c"]}', CallOrigin())


@pytest.mark.parametrize(
    "signature",
    [
        Signature(inputs=(replace(TEXT, is_binary=True),), outputs=(EMBEDDING,)),
        Signature(inputs=(TEXT, replace(TEXT, name="more")), outputs=(EMBEDDING,)),
        Signature(inputs=(replace(TEXT, datatype="FP32"),), outputs=(EMBEDDING,)),
        Signature(inputs=(TEXT,), outputs=(TOKENS,)),
        Signature(inputs=(TEXT,), outputs=(EMBEDDING, replace(EMBEDDING, name="more"))),
    ],
)
def test_a_model_that_embeds_no_text_is_refused(signature: Signature) -> None:
    with pytest.raises(InvalidRequestError, match="embeds no text"):
        embeddings(signature).read({}, b'{"model": "sentences", "input": "a"}', CallOrigin())


def result(**outputs: np.ndarray) -> Result:
    content, json_length = encode_response(outputs, model="sentences", version="v1")
    return Result(
        request_id="r",
        status=Status.SUCCEEDED,
        model="sentences",
        version="v1",
        attempt=1,
        accepted_s=0.0,
        finished_s=1.0,
        rows=2,
        content=content,
        json_length=json_length,
    )


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_a_result_has_openais_shape(encoding: str | None) -> None:
    call = read({"input": ["a", "b"], "encoding_format": encoding})

    response = embeddings().result_response(call, result(embedding=VECTORS, tokens=np.array([3, 4], np.uint32)))

    body = json.loads(response.body)
    vectors = [item.pop("embedding") for item in body["data"]]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    np.testing.assert_array_equal(np.array(vectors, np.float32), VECTORS)
    assert body == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}, {"object": "embedding", "index": 1}],
        "model": "sentences",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_a_version_that_counts_no_tokens_uses_none() -> None:
    response = embeddings().result_response(read({"input": "a"}), result(embedding=VECTORS))

    assert json.loads(response.body)["usage"]["prompt_tokens"] == 0


def test_a_result_without_embeddings_is_an_error() -> None:
    with pytest.raises(InferlaneError, match="gave no embeddings"):
        embeddings().result_response(read({"input": "a"}), result(tokens=np.array([3])))


def test_a_failed_request_is_an_error_that_clients_do_not_repeat() -> None:
    failed = msgspec.structs.replace(
        result(embedding=VECTORS), status=Status.FAILED, error_code="model_error", error_detail="it failed"
    )

    response = embeddings().result_response(read({"input": "a"}), failed)

    assert response.status == 500
    assert json.loads(response.body)["error"] == {
        "message": "it failed",
        "type": "server_error",
        "param": None,
        "code": "model_error",
    }
    assert (b"x-should-retry", b"false") in response.headers


def test_a_wait_that_runs_out_names_where_the_result_will_be() -> None:
    call = read({"input": "a"})

    response = embeddings().queued_response(call)

    assert response.status == 504
    assert call.request_id in json.loads(response.body)["error"]["message"]
    assert (b"location", f"/v1/predictions/{call.request_id}".encode()) in response.headers
    assert (b"x-should-retry", b"false") in response.headers


def test_errors_of_the_path_have_openais_shape_and_keep_their_headers() -> None:
    error = DecodeError("no JSON")

    response = error_response(error, EMBEDDINGS_PATH)

    assert response.status == 400
    assert json.loads(response.body)["error"] == {
        "message": "no JSON",
        "type": "invalid_request_error",
        "param": None,
        "code": "undecodable",
    }


def test_the_document_has_the_call_where_a_model_embeds_text() -> None:
    schema = embeddings_bodies(catalog_of(SENTENCES), max_rows=5)

    assert schema is not None
    assert schema["properties"]["model"]["enum"] == ["sentences", "sentences/v1"]
    assert embeddings_bodies(make_catalog("v1"), max_rows=5) is None


def test_the_call_needs_the_scope_of_predict_calls() -> None:
    assert required_scope("POST", EMBEDDINGS_PATH) is Scope.PREDICT

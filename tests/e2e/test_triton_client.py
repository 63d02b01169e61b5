"""NVIDIA's Triton client, unmodified, on a whole stack with keys and TLS: a sample model and one of two inputs."""

import asyncio
import gzip
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.http import InferenceServerClientPlugin
from tritonclient.utils import InferenceServerException

from tests.support.keyed_stack import KeyedStack
from tests.support.parts import eventually

pytestmark = pytest.mark.timeout(900)

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
PARAMETERS = {"timeout_s": 60, "deadline_s": 120, "routing_key": "customer-7"}


@pytest.fixture
def client(keyed: KeyedStack) -> Iterator[triton.InferenceServerClient]:
    with opened(keyed) as made:
        made.register_plugin(_Key(keyed.admin_key))
        yield made


def opened(keyed: KeyedStack, **options: Any) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(
        f"localhost:{keyed.api_port}",
        ssl=True,
        ssl_options={"ca_certs": str(keyed.authority)},
        network_timeout=120,
        **options,
    )


class _Key(InferenceServerClientPlugin):
    """Puts the key into every call, as the client's documents show for headers of one's own."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: Any) -> None:
        request.headers["authorization"] = f"Bearer {self._key}"


def iris_input(*, binary: bool = True, rows: np.ndarray = ROWS) -> triton.InferInput:
    made = triton.InferInput("input", list(rows.shape), "FP32")
    made.set_data_from_numpy(rows, binary_data=binary)
    return made


def refusal_of(call: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as raised:
        call()
    return raised.value.status(), raised.value.message()


def test_the_server_and_its_models_are_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("iris")
    assert client.is_model_ready("pair", "v1")
    assert not client.is_model_ready("pair", "v9")
    assert client.get_server_metadata()["name"] == "inferlane"
    about = client.get_model_metadata("pair")
    assert (about["name"], about["versions"]) == ("pair", ["v1"])
    assert about["inputs"] == [
        {"name": "left", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "right", "datatype": "INT64", "shape": [-1]},
    ]
    assert [each["name"] for each in about["outputs"]] == ["sum", "same"]
    states = {(each["name"], each["version"]): each["state"] for each in client.get_model_repository_index()}
    assert states["iris", "v1"] == states["pair", "v1"] == "READY"
    assert client.get_model_config("pair")["input"][0] == {"name": "left", "data_type": "TYPE_FP32", "dims": [3]}


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_sample_model_answers(client: triton.InferenceServerClient, binary: bool, coding: str | None) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "label")]
    answer = client.infer(
        "iris",
        [iris_input(binary=binary)],
        model_version="v1",
        outputs=outputs,
        request_id="order-1",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
        parameters=PARAMETERS,
    )
    response = answer.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("order-1", "iris", "v1")
    assert [output["name"] for output in response["outputs"]] == ["probabilities", "label"]
    assert answer.as_numpy("label").tolist() == [0, 2]
    assert np.argmax(answer.as_numpy("probabilities"), axis=1).tolist() == [0, 2]


def test_a_large_response_comes_compressed_and_whole(client: triton.InferenceServerClient) -> None:
    rows = np.tile(ROWS, (2_000, 1))
    answer = client.infer(
        "iris", [iris_input(rows=rows)], response_compression_algorithm="gzip", parameters={"timeout_s": 60}
    )
    assert answer.as_numpy("label").tolist() == [0, 2] * 2_000


def test_the_best_classes_are_named(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=1)]
    answer = client.infer("iris", [iris_input()], model_version="v1", outputs=outputs, parameters=PARAMETERS)
    best = [text[0].decode().split(":")[1:] for text in answer.as_numpy("probabilities")]
    assert best == [["0", "setosa"], ["2", "virginica"]]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_model_of_two_inputs_answers(client: triton.InferenceServerClient, binary: bool) -> None:
    left, right = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([10, -(2**53) - 1], np.int64)
    inputs = [triton.InferInput("right", [2], "INT64"), triton.InferInput("left", [2, 3], "FP32")]
    for made, values in zip(inputs, (right, left), strict=True):
        made.set_data_from_numpy(values, binary_data=binary)
    outputs = [triton.InferRequestedOutput("sum", binary_data=binary), triton.InferRequestedOutput("same")]
    answer = client.infer("pair", inputs, outputs=outputs, parameters=PARAMETERS)
    assert answer.as_numpy("same").tolist() == right.tolist()
    assert np.allclose(answer.as_numpy("sum"), left + right.astype(np.float32)[:, None])


def test_many_calls_at_once_each_get_their_own_answer(keyed: KeyedStack) -> None:
    with opened(keyed, concurrency=16) as many:
        many.register_plugin(_Key(keyed.admin_key))
        left = triton.InferInput("left", [1, 3], "FP32")
        left.set_data_from_numpy(np.zeros((1, 3), np.float32))
        waiting = []
        for number in range(64):
            right = triton.InferInput("right", [1], "INT64")
            right.set_data_from_numpy(np.array([number]))
            waiting.append(many.async_infer("pair", [left, right], request_id=str(number), parameters=PARAMETERS))
        answers = [each.get_result() for each in waiting]
    assert [answer.get_response()["id"] for answer in answers] == [str(number) for number in range(64)]
    assert [answer.as_numpy("same").tolist() for answer in answers] == [[number] for number in range(64)]


def test_what_is_wrong_is_told_in_the_words_of_the_protocol(
    client: triton.InferenceServerClient, keyed: KeyedStack
) -> None:
    def infer(**options: Any) -> Any:
        return lambda: client.infer(options.pop("model_name", "iris"), [iris_input()], **options)

    assert refusal_of(infer(model_name="rose")) == ("404", "no model 'rose'; there are: digits, iris, pair")
    assert refusal_of(infer(model_name="pair"))[0] == "422"
    status, message = refusal_of(infer(priority=3))
    assert (status, "priority" in message) == ("400", True)
    assert refusal_of(infer(outputs=[triton.InferRequestedOutput("x")]))[0] == "422"
    with opened(keyed) as stranger:
        assert stranger.is_server_ready()
        status, message = refusal_of(stranger.get_server_metadata)
    assert (status, "Authorization: Bearer" in message) == ("401", True)


def test_a_wait_that_runs_out_names_where_the_result_will_be(
    client: triton.InferenceServerClient, keyed: KeyedStack
) -> None:
    def infer_many() -> None:
        # A result that is there before its request is confirmed is given all the same.
        for _ in range(200):
            client.infer("iris", [iris_input()], parameters={"timeout_s": 0})

    status, message = refusal_of(infer_many)
    path = message.partition("GET ")[2].partition(" ")[0]
    assert status == "504"
    assert keyed.call(path)["status"] == "SUCCEEDED"


def test_a_key_makes_calls_one_request(client: triton.InferenceServerClient) -> None:
    headers = {"Idempotency-Key": "triton-1"}
    first, again = (
        client.infer("pair", _pair_inputs(), headers=dict(headers), parameters=PARAMETERS).get_response()["id"]
        for _ in range(2)
    )
    other = client.infer("pair", _pair_inputs(), parameters=PARAMETERS).get_response()["id"]
    assert first == again != other


def _pair_inputs() -> list[triton.InferInput]:
    left, right = triton.InferInput("left", [1, 3], "FP32"), triton.InferInput("right", [1], "INT64")
    left.set_data_from_numpy(np.ones((1, 3), np.float32))
    right.set_data_from_numpy(np.array([1]))
    return [left, right]


def test_curl_sends_and_gets_gzip(keyed: KeyedStack) -> None:
    rows = [[5.1, 3.5, 1.4, 0.2]] * 200
    body = {"inputs": [{"name": "input", "shape": [200, 4], "datatype": "FP32", "data": rows}]}
    done = subprocess.run(
        [
            *("curl", "-sS", "--compressed", "--data-binary", "@-", "-D", "/dev/stderr", "--max-time", "60"),
            *("--cacert", str(keyed.authority)),
            *("-H", f"Authorization: Bearer {keyed.admin_key}", "-H", "Content-Encoding: gzip"),
            f"{keyed.api_url}/v2/models/iris/infer",
        ],
        input=gzip.compress(json.dumps(body).encode()),
        capture_output=True,
        check=True,
    )
    assert b"content-encoding: gzip" in done.stderr
    label = next(output for output in json.loads(done.stdout)["outputs"] if output["name"] == "label")
    assert label["data"] == [0] * 200


def test_calls_are_counted_as_those_of_v1(client: triton.InferenceServerClient, keyed: KeyedStack) -> None:
    def count() -> float:
        url = f"{keyed.api_url}/metrics"
        with urllib.request.urlopen(url, timeout=60, context=keyed.trust()) as answer:  # noqa: S310 - our own server
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
        wanted = {"model": "pair", "version": "v1", "status": "200"}
        return sum(
            sample.value
            for sample in samples
            if sample.name == "inferlane_api_answers_total" and wanted.items() <= sample.labels.items()
        )

    before = count()
    client.infer("pair", _pair_inputs(), parameters=PARAMETERS)

    async def is_counted() -> bool:
        return await asyncio.to_thread(count) == before + 1

    # The text of a scrape is kept for a moment.
    asyncio.run(eventually(is_counted, within_s=60))


def test_head_and_options_answer_as_http_wants(keyed: KeyedStack) -> None:
    def ask(method: str, path: str) -> tuple[int, str | None, bytes]:
        request = urllib.request.Request(  # noqa: S310 - our own server
            keyed.api_url + path,
            method=method,
            headers={"authorization": f"Bearer {keyed.admin_key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60, context=keyed.trust()) as answer:  # noqa: S310 - as above
                return answer.status, answer.headers["allow"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["allow"], error.read()

    reads, writes = "GET, HEAD, OPTIONS", "OPTIONS, POST"
    for path in ("/v2", "/v2/health/ready", "/v2/models", "/v2/models/iris", "/v2/models/iris/versions/v1/ready"):
        assert ask("HEAD", path) == (200, None, b"")
        assert ask("OPTIONS", path) == (204, reads, b"")
        assert ask("DELETE", path)[:2] == (405, reads)
    for path in ("/v2/models/iris/infer", "/v2/models/iris/versions/v1/infer", "/v2/repository/index"):
        assert ask("OPTIONS", path) == (204, writes, b"")
        status, allow, body = ask("GET", path)
        assert (status, allow, list(json.loads(body))) == (405, writes, ["error"])
    assert ask("OPTIONS", "/v2/nothing")[0] == 404

"""What a client of the HTTP API sees, on a real stack."""

import gzip
import http.client
import json
import os
import random
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import onnxruntime
import pytest

from router.routing import choose
from tests.e2e.conftest import Stack
from tests.e2e.processes import paused
from tests.support.brokers.processes import wait_until

pytestmark = pytest.mark.timeout(900)

SETOSA = [5.1, 3.5, 1.4, 0.2]
# CI asks for more; a laptop's test run is content with fewer.
REQUESTS = int(os.environ.get("INFERLANE_E2E_REQUESTS", "2000"))
# Workers publish one a second; the API sums them.
SUMMARIES_S = 3


def iris_row(generator: random.Random) -> list[float]:
    return [round(generator.uniform(low, high), 2) for low, high in ((4, 8), (2, 4.5), (1, 7), (0.1, 2.5))]


def run_directly(stack: Stack, version: str, rows: list[list[float]]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        str(stack.models_dir / "iris" / version / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    label, probabilities = session.run(["label", "probabilities"], {"input": np.array(rows, np.float32)})
    return {"label": label, "probabilities": probabilities}


def await_split(stack: Stack, weights: dict[str, float], *, moved_to: str) -> None:
    """Return when the router has the split too: the API answers for its own table alone."""
    key = next(key for key in (f"probe-{number}" for number in range(1_000)) if choose(key, weights) == moved_to)
    for _ in range(500):
        if stack.predict(SETOSA, routing_key=key)["version"] == moved_to:
            return
    pytest.fail(f"the router does not follow the split {weights}")


CLASSES = ("setosa", "versicolor", "virginica")


@pytest.mark.parametrize("version", ["v1", "v2", "v2-quantized"])
def test_each_version_answers_as_onnxruntime_does(stack: Stack, version: str) -> None:
    answer = stack.predict(SETOSA, version=version)
    direct = run_directly(stack, version, [SETOSA])
    (prediction,) = answer["predictions"]
    assert (answer["version"], prediction["label"]) == (version, "setosa")
    np.testing.assert_allclose(prediction["probabilities"], direct["probabilities"][0], atol=1e-6)


def test_a_split_is_followed_within_a_point_sticky_by_key_and_right(stack: Stack) -> None:
    assert stack.call("/v1/traffic-split", {"v1": 90, "v2": 10}).body["weights"]["v2"] == pytest.approx(0.1)
    generator = random.Random(7)
    keys = [f"user-{generator.randrange(REQUESTS // 2)}" for _ in range(REQUESTS)]
    rows = [iris_row(generator) for _ in range(REQUESTS)]

    def ask(number: int) -> tuple[int, Any]:
        body = {"instances": [rows[number]], "routing_key": keys[number], "timeout_s": 60}
        answer = stack.call("/v1/models/predict", body)
        return answer.status, answer.body

    await_split(stack, {"v1": 90, "v2": 10}, moved_to="v2")
    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(ask, range(REQUESTS)))

    assert Counter(status for status, _ in answers) == {200: REQUESTS}
    bodies = [body for _, body in answers]
    by_key = defaultdict(set)
    for key, body in zip(keys, bodies, strict=True):
        by_key[key].add(body["version"])
    assert {len(versions) for versions in by_key.values()} == {1}
    share = sum(versions == {"v2"} for versions in by_key.values()) / len(by_key)
    # Four standard deviations of the share of that many keys.
    assert share == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / len(by_key)) ** 0.5)
    for version in ("v1", "v2"):
        mine = [number for number, body in enumerate(bodies) if body["version"] == version]
        direct = run_directly(stack, version, [rows[number] for number in mine])
        got = [bodies[number]["predictions"][0] for number in mine]
        assert [prediction["label"] for prediction in got] == [CLASSES[index] for index in direct["label"]]
        np.testing.assert_allclose(
            [prediction["probabilities"] for prediction in got], direct["probabilities"], atol=1e-5
        )


GOOD = [SETOSA]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"instances": [[1, 2, 3]]}, 422, "invalid_input", "shape [3]"),
        ({"instances": [[1, 2, "a", 4]]}, 422, "invalid_input", "instances[0][2] holds 'a', a string"),
        ({"instances": []}, 422, "invalid_input", "empty"),
        ({"instances": [[1, 2, 3, 1e300]]}, 422, "invalid_input", "finite"),
        ({}, 422, "invalid_parameter", "instances"),
        ({"instances": GOOD, "version": "v9"}, 404, "unknown_model", "v2-quantized"),
        ({"instances": GOOD, "model": "nope"}, 404, "unknown_model", "iris"),
        ({"instances": GOOD, "timeout_s": -1}, 422, "invalid_parameter", "between 0 and"),
        ({"instances": GOOD, "vresion": "v1"}, 422, "invalid_parameter", "vresion"),
        ({"instances": GOOD * 10_001}, 413, "payload_too_large", "10000"),
        (b'{"instances": [[1, 2, 3, NaN]]}', 400, "undecodable", "NaN"),
        (b'{"instances": [[1, 2', 400, "undecodable", "JSON"),
        (b"", 400, "undecodable", "JSON"),
        (b"\xff\xfe", 400, "undecodable", "JSON"),
        (b'{"instances": ' + b"[" * 100_000, 400, "undecodable", "JSON"),
        (b"[1]", 422, "invalid_parameter", "object"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong_and_how_to_mend_it(
    stack: Stack, body: Any, status: int, code: str, says: str
) -> None:
    answer = stack.call("/v1/models/predict", raw=body if isinstance(body, bytes) else json.dumps(body).encode())
    assert answer.status == status, answer.raw
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.body
    assert (problem["status"], problem["code"]) == (status, code)
    assert says in problem["detail"]


def test_a_body_of_100_mb_is_refused_with_the_limit_and_the_api_lives_on(stack: Stack) -> None:
    answer = stack.call("/v1/models/predict", raw=b" " * 100_000_000)
    assert (answer.status, answer.body["code"]) == (413, "payload_too_large")
    assert "8388608" in answer.body["detail"]
    stack.predict(SETOSA)


def test_other_wrong_calls_are_problem_documents_too(stack: Stack) -> None:
    for path, status in (("/v1/predictions/never-seen", 404), ("/nope", 404), ("/v1/metrics/v9", 404)):
        answer = stack.call(path)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    for body in ({"v1": -1}, {"v9": 1}, {"v1": 0}, {"v1": "ten"}, {}, {"weights": {}}, []):
        answer = stack.call("/v1/traffic-split", body)
        assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json"), body
    assert stack.call("/v1/models/predict").status == 405


def test_an_async_request_is_accepted_at_once_and_answered_at_its_location(stack: Stack) -> None:
    accepted = stack.call("/v1/models/predict", {"instances": GOOD}, prefer="respond-async")
    assert accepted.status == 202
    assert accepted.headers["location"] == accepted.body["location"]
    result = stack.call(accepted.headers["location"] + "?wait_s=30").body
    assert (result["status"], result["predictions"][0]["label"]) == ("SUCCEEDED", "setosa")


def test_a_stream_of_events_tells_when_a_submitted_request_ends(stack: Stack) -> None:
    """The whole way with a plain HTTP client: submit, stream, and compare with what GET answers."""
    body = {"instances": GOOD, "version": "v1"}
    with closing(http.client.HTTPConnection("127.0.0.1", stack.api_port, timeout=60)) as connection:
        with paused(stack, "worker-iris-v1"):
            location = stack.call("/v1/models/predict", body, prefer="respond-async").body["location"]
            connection.request("GET", f"{location}/events")
            stream = connection.getresponse()
            assert (stream.status, stream.headers.get_content_type()) == (200, "text/event-stream")
            assert stream.readline() == b"event: queued\n"
            assert json.loads(stream.readline().removeprefix(b"data: "))["status"] == "QUEUED"
        rest = [line for line in stream.read().decode().splitlines() if line and not line.startswith(":")]
    assert rest[0].startswith("id: ")
    assert rest[1] == "event: result"
    (event,) = rest[2:]
    assert json.loads(event.removeprefix("data: ")) == stack.call(location).body
    assert json.loads(event.removeprefix("data: "))["predictions"][0]["label"] == "setosa"


def test_a_wait_that_runs_out_is_a_202_and_the_result_comes_later(stack: Stack) -> None:
    with paused(stack, "worker-iris-v1"):
        late = stack.call("/v1/models/predict", {"instances": GOOD, "version": "v1", "timeout_s": 0})
    assert late.status == 202
    assert stack.call(late.headers["location"] + "?wait_s=30").body["status"] == "SUCCEEDED"


def test_a_request_past_its_deadline_is_answered_expired_and_not_computed(stack: Stack) -> None:
    late = {"instances": GOOD, "deadline_s": 0}
    accepted = stack.call("/v1/models/predict", late, prefer="respond-async")
    for _ in range(60):
        if accepted.status != 503:
            break
        # What an earlier test left in the queue is worked off first: no deadline of 0 s can be met behind it.
        time.sleep(float(accepted.headers["retry-after"]))
        accepted = stack.call("/v1/models/predict", late, prefer="respond-async")
    assert accepted.status == 202, accepted.raw
    result = stack.call(accepted.headers["location"] + "?wait_s=30").body
    assert (result["status"], result["error"]["code"]) == ("EXPIRED", "deadline_exceeded")


def settled_requests(stack: Stack, version: str) -> int:
    """What the version has answered, once the summaries of the last second are in."""
    counts = [-1]
    while counts[-1] != (now := stack.call(f"/v1/metrics/{version}?window_s=600").body["requests"]):
        counts.append(now)
        time.sleep(SUMMARIES_S)
    return counts[-1]


def test_metrics_of_a_version_count_what_it_answered(stack: Stack) -> None:
    before = settled_requests(stack, "v2-quantized")
    for _ in range(5):
        stack.predict(SETOSA, version="v2-quantized")

    def report() -> dict[str, Any]:
        body: dict[str, Any] = stack.call("/v1/metrics/v2-quantized?window_s=600").body
        return body

    wait_until(lambda: report()["requests"] >= before + 5, within_s=60, what="the five requests are counted")
    assert settled_requests(stack, "v2-quantized") == before + 5
    report = report()
    assert report["latency_ms"]["total"]["p99"] >= report["latency_ms"]["inference"]["p50"] > 0
    assert report["prediction_distribution"]["setosa"] >= 5
    assert report["resources"]["workers"] == 1
    assert report["resources"]["memory_bytes"] > 0


def test_the_openapi_document_describes_the_hot_call_with_examples(stack: Stack) -> None:
    document = stack.call("/openapi.json").body
    predict = document["paths"]["/v1/models/predict"]["post"]
    assert predict["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("PredictRequest")
    examples = document["components"]["schemas"]["PredictRequest"]["examples"]
    for example in examples:
        assert stack.call("/v1/models/predict", {**example, "timeout_s": 60}).status == 200
    assert stack.call("/docs").status == 200
    assert b"inferlane_api_answers_total" in stack.call("/metrics").raw


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_read_and_one_that_inflates_without_end_is_not(
    stack: Stack, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    body = json.dumps({"instances": [SETOSA], "timeout_s": 60}).encode()
    answer = stack.call("/v1/models/predict", raw=compress(body), content_encoding=coding)
    assert (answer.status, answer.body["predictions"][0]["label"]) == (200, "setosa")
    bomb = stack.call("/v1/models/predict", raw=compress(b"0" * 300_000_000), content_encoding=coding)
    assert (bomb.status, bomb.body["code"]) == (413, "payload_too_large")
    other = stack.call("/v1/models/predict", raw=body, content_encoding="br")
    assert (other.status, other.headers["accept-encoding"]) == (415, "gzip, deflate")


def test_what_is_wrong_is_named_by_its_place_and_repeated_in_part(stack: Stack) -> None:
    answer = stack.call("/v1/models/predict", {"instances": [SETOSA, [1, 2, "x" * 1_000_000, 4], [None] * 4]})
    assert answer.status == 422
    assert answer.body["detail"].startswith("instances[1][2] holds 'xxx")
    assert len(answer.raw) < 1_000

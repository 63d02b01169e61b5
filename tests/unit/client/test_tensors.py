"""Binary tensors: every datatype both ways against the server's own codec, and the call over real HTTP."""

import asyncio
import inspect
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.wire.v2 import decode_request, encode_response
from inferlane.contracts.wire.v2_fields import ResponseForm
from inferlane_client import (
    AsyncClient,
    CallError,
    Cancelled,
    Expired,
    Failed,
    InvalidInput,
    InvalidRequest,
    KeyReused,
    NotFound,
    Overloaded,
    Retries,
    TensorPrediction,
    TimedOut,
    TooLarge,
    Unavailable,
    UnexpectedAnswer,
)
from inferlane_client.binary_tensors import arrays_of, decode_prediction, encode_tensors
from tests.unit.client.conftest import Ask, Scripted, ScriptedServer, Seen

LENGTH = "inference-header-content-length"
ROWS = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)
NUMBERS = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
AS_BYTES = ResponseForm(id="r1", binary=True)


def answer_of(**outputs: np.ndarray) -> Scripted:
    body, length = encode_response(outputs, model="iris", version="v1", form=AS_BYTES)
    return Scripted(document=body, headers={LENGTH: str(length)})


DONE = answer_of(label=np.array(["setosa"], np.dtypes.StringDType()), scores=np.array([[0.5, 1.5]], np.float32))
QUEUED = Scripted(status=504, document={"error": "no result"}, headers={"location": "/v1/predictions/r%2F1"})


def refused(status: int, message: str = "no", **headers: str) -> Scripted:
    return Scripted(status=status, document={"error": message}, headers=headers)


def read_by_the_server(array: np.ndarray) -> np.ndarray:
    body, length = encode_tensors(arrays_of({"x": array}), {})
    request = decode_request(body, length)
    assert request.form.binary
    return request.tensors["x"]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_of_each_datatype_arrive_as_they_are_and_come_back(dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]], np.dtype(dtype))
    for sent in (array, array.astype(array.dtype.newbyteorder(">")), np.asfortranarray(array), array[:, ::2]):
        got = read_by_the_server(sent)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, sent)
    body, length = encode_response({"y": array}, model="m", version="v", form=AS_BYTES)
    output = decode_prediction(body, str(length)).outputs["y"]
    assert output.dtype == array.dtype
    np.testing.assert_array_equal(output, array)


@pytest.mark.parametrize("values", [[float("nan")], [float("inf")], [65504.0], [5.96e-08]])
def test_half_floats_keep_each_bit(values: list[float]) -> None:
    array = np.array([values], np.float16)
    assert read_by_the_server(array).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([["ä", ""], ["long enough", "\u0000x"]], object),
        np.array([["a", "ü"]]),
        np.array([["a", "ü"]], np.dtypes.StringDType()),
        np.array([[b"a", b"bc"]]),
        np.empty((0, 2), object),
    ],
    ids=["objects", "unicode", "strings", "bytes", "none"],
)
def test_texts_and_bytes_arrive_as_they_are_and_come_back(array: np.ndarray) -> None:
    expected = [[each.decode() if isinstance(each, bytes) else each for each in row] for row in array.tolist()]
    got = read_by_the_server(array)
    assert (got.tolist(), got.shape) == (expected, array.shape)
    body, length = encode_response({"y": got}, model="m", version="v", form=AS_BYTES)
    output = decode_prediction(body, str(length)).outputs["y"]
    assert (output.tolist(), output.shape) == (expected, array.shape)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([[1.5]], "the tensor is a list; send a numpy array"),
        ({"x": [1.5]}, "tensor 'x' is a list"),
        ({}, "there is no tensor"),
        (np.array(1.5), "has no axis"),
        ({"x": np.array([1j])}, "tensor 'x' has the dtype complex128"),
        ({"x": np.array(["2026-01-01"], "datetime64[D]")}, "has the dtype datetime64"),
        ({"x": np.array([None])}, "tensor 'x' holds a NoneType"),
        # What is under the mask is no value, and went as one.
        ({"x": np.ma.array([[1.0, 2.0]], mask=[[True, False]])}, "tensor 'x' has a mask"),
    ],
)
def test_what_is_no_tensor_is_refused_before_it_is_sent(
    server: ScriptedServer, ask: Ask, tensors: Any, message: str
) -> None:
    server.will(DONE)
    with pytest.raises(InvalidInput, match=message) as raised:
        ask(server.url, lambda client: client.predict_tensors(tensors, model="iris"))
    assert (raised.value.code, raised.value.status) == ("invalid_input", None)
    assert not server.seen


def test_tensors_for_no_model_are_refused_before_they_are_sent(server: ScriptedServer, ask: Ask) -> None:
    server.will(DONE)
    with pytest.raises(InvalidInput, match="has the model's name in its path"):
        ask(server.url, lambda client: client.predict_tensors({"x": ROWS}, model=""))
    assert not server.seen


def test_arrays_go_as_bytes_with_the_options_and_come_back_as_arrays(server: ScriptedServer, ask: Ask) -> None:
    server.will(DONE)
    result = ask(
        server.url,
        lambda client: client.predict_tensors(
            {"input": ROWS},
            model="iris",
            version="v 1",
            routing_key="k",
            deadline_s=9,
            callback_url="https://a.example/b",
            idempotency_key="order-1",
            timeout_s=20,
        ),
    )
    assert (result.request_id, result.model, result.version) == ("r1", "iris", "v1")
    assert result.outputs["label"].tolist() == ["setosa"]
    assert result.outputs["scores"].tolist() == [[0.5, 1.5]]
    (call,) = server.seen
    assert (call.method, call.path) == ("POST", "/v2/models/iris/versions/v 1/infer")
    assert (call.headers["idempotency-key"], call.headers["prefer"]) == ("order-1", "wait=19")
    head = json.loads(call.body[: int(call.headers[LENGTH])])
    assert head["parameters"] == {
        "binary_data_output": True,
        "routing_key": "k",
        "deadline_s": 9,
        "callback_url": "https://a.example/b",
    }
    assert call.body[int(call.headers[LENGTH]) :] == ROWS.tobytes()


def test_the_name_of_an_only_input_is_asked_once_and_again_after_a_refusal(server: ScriptedServer, ask: Ask) -> None:
    verdicts = iter([DONE, DONE, refused(422, "no input is called 'flowers'"), DONE])

    async def answering(call: Seen) -> Scripted:
        if call.method == "GET":
            return Scripted(document={"inputs": [{"name": "flowers", "datatype": "FP32", "shape": [-1, 4]}]})
        head = json.loads(call.body[: int(call.headers[LENGTH])])
        assert [each["name"] for each in head["inputs"]] == ["flowers"]
        return next(verdicts)

    async def four_times(client: Any) -> list[Any]:
        outcomes = []
        for _ in range(4):
            try:
                answered = client.predict_tensors(ROWS, model="iris")
                outcomes.append(type(await answered if inspect.isawaitable(answered) else answered))
            except CallError as error:
                outcomes.append(type(error))
        return outcomes

    def asked(client: Any) -> Any:
        return four_times(client) if isinstance(client, AsyncClient) else asyncio.run(four_times(client))

    server.answering = answering
    assert ask(server.url, asked) == [TensorPrediction, TensorPrediction, InvalidInput, TensorPrediction]
    metadata, infer = ("GET", "/v2/models/iris"), ("POST", "/v2/models/iris/infer")
    assert [(call.method, call.path) for call in server.seen] == [metadata, infer, infer, infer, metadata, infer]


def test_an_array_without_a_name_for_a_model_of_several_inputs_is_refused(server: ScriptedServer, ask: Ask) -> None:
    server.will(Scripted(document={"inputs": [{"name": "age"}, {"name": "pixels"}]}))
    with pytest.raises(InvalidInput, match="the inputs age, pixels; send a mapping"):
        ask(server.url, lambda client: client.predict_tensors(ROWS, model="pair"))
    assert [call.method for call in server.seen] == ["GET"]


def test_a_wait_that_runs_out_goes_on_as_the_same_request(server: ScriptedServer, ask: Ask) -> None:
    busy = refused(503, "too many", **{"retry-after": "0"})
    server.will(busy, QUEUED, Scripted(), QUEUED, Scripted(status=502, document=b"<html>"), DONE)
    result = ask(server.url, lambda client: client.predict_tensors({"input": ROWS}, model="iris", timeout_s=600))
    assert result.request_id == "r1"
    assert len(server.seen) == 6
    assert len({(call.headers["idempotency-key"], call.body) for call in server.seen}) == 1
    assert {call.headers["prefer"] for call in server.seen} == {"wait=30"}


def test_no_result_in_time_names_the_request(server: ScriptedServer, ask: Ask) -> None:
    server.will(QUEUED)
    with pytest.raises(TimedOut, match="request r/1 has no result within 0 s") as raised:
        ask(server.url, lambda client: client.predict_tensors({"input": ROWS}, model="iris", timeout_s=0))
    assert (raised.value.request_id, raised.value.retryable) == ("r/1", False)
    assert raised.value.idempotency_key == server.seen[0].headers["idempotency-key"]


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (refused(400), InvalidInput, "undecodable"),
        (refused(422), InvalidInput, "invalid_input"),
        (refused(422, "the Idempotency-Key stands for"), KeyReused, "idempotency_key_reused"),
        (refused(422, "callback_url is given"), InvalidRequest, "callback_refused"),
        (refused(413), TooLarge, "payload_too_large"),
        (refused(404), NotFound, "unknown_model"),
        (refused(503), Unavailable, "unavailable"),
        (refused(500), Failed, "model_error"),
        (refused(410), Cancelled, "cancelled"),
        (refused(504), Expired, "deadline_exceeded"),
        (Scripted(document={"outputs": []}), UnexpectedAnswer, "unexpected_answer"),
        (Scripted(document=b"{}", headers={LENGTH: "2"}), UnexpectedAnswer, "unexpected_answer"),
        (Scripted(document=b"{}", headers={LENGTH: "9"}), UnexpectedAnswer, "unexpected_answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_error_of_the_protocol_is_raised_at_once_as_its_kind(
    server: ScriptedServer, ask: Ask, answer: Scripted, kind: type[CallError], code: str
) -> None:
    server.will(answer)
    with pytest.raises(kind) as raised:
        ask(server.url, lambda client: client.predict_tensors({"input": ROWS}, model="iris"))
    assert (type(raised.value), raised.value.code) == (kind, code)
    assert len(server.seen) == 1


def test_what_the_server_wants_to_see_again_is_retryable(server: ScriptedServer, ask: Ask) -> None:
    retries = Retries(limit=0)
    for status, kind in ((503, Unavailable), (429, Overloaded)):
        server.will(refused(status, "too many", **{"retry-after": "7"}))
        with pytest.raises(kind, match="too many") as raised:
            ask(server.url, lambda client: client.predict_tensors({"x": ROWS}, model="iris"), retries=retries)
        assert (raised.value.retryable, raised.value.retry_after_s) == (True, 7)


def test_without_numpy_the_error_says_what_is_missing() -> None:
    program = (
        "import inferlane_client, sys\n"
        "client = inferlane_client.Client('http://127.0.0.1:1')\n"
        "try: client.predict_tensors([[1.5]], model='iris')\n"
        "except inferlane_client.InvalidInput as error: print(error)\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    message, has_numpy = done.stdout.splitlines()
    assert "has not imported numpy" in message
    assert has_numpy == "False"

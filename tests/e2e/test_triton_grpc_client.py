"""NVIDIA's Triton client over gRPC, unmodified, on a whole stack with keys and TLS."""

import asyncio
import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.support.keyed_stack import KeyedStack

pytestmark = pytest.mark.timeout(900)

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
PARAMETERS = {"timeout_s": 60, "deadline_s": 120, "routing_key": "customer-7"}


@pytest.fixture
def client(keyed: KeyedStack) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address_of(keyed), **trust(keyed)) as made:
        yield made


@pytest.fixture
def key(keyed: KeyedStack) -> dict[str, str]:
    return {"authorization": f"Bearer {keyed.admin_key}"}


def address_of(keyed: KeyedStack) -> str:
    return f"localhost:{keyed.grpc_port}"


def trust(keyed: KeyedStack) -> dict[str, Any]:
    return {"ssl": True, "root_certificates": str(keyed.folder / "ca.pem")}


def tensor(name: str, values: np.ndarray, datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def iris_input() -> triton.InferInput:
    return tensor("input", ROWS, "FP32")


def pair_inputs(left: np.ndarray, right: np.ndarray) -> list[triton.InferInput]:
    return [tensor("right", right, "INT64"), tensor("left", left, "FP32")]


def refusal_of(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as raised:
        call()
    return raised.value.status(), raised.value.message()


def test_the_server_and_its_models_are_described(client: triton.InferenceServerClient, key: dict[str, str]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("iris", headers=key)
    assert client.is_model_ready("pair", "v1", headers=key)
    assert refusal_of(lambda: client.is_model_ready("pair", "v9", headers=key))[0] == "StatusCode.NOT_FOUND"
    assert client.get_server_metadata(headers=key).name == "inferlane"
    about = client.get_model_metadata("pair", headers=key, as_json=True)
    assert (about["name"], about["versions"]) == ("pair", ["v1"])
    assert [(each["name"], each["datatype"], each["shape"]) for each in about["inputs"]] == [
        ("left", "FP32", ["-1", "3"]),
        ("right", "INT64", ["-1"]),
    ]


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_a_sample_model_answers(client: triton.InferenceServerClient, key: dict[str, str], coding: str | None) -> None:
    outputs = [triton.InferRequestedOutput(name) for name in ("probabilities", "label")]
    answer = client.infer(
        "iris",
        [iris_input()],
        model_version="v1",
        outputs=outputs,
        request_id="order-1",
        headers=key,
        client_timeout=120,
        compression_algorithm=coding,
        parameters=PARAMETERS,
    )
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("order-1", "iris", "v1")
    assert [output.name for output in response.outputs] == ["probabilities", "label"]
    assert answer.as_numpy("label").tolist() == [0, 2]
    assert np.argmax(answer.as_numpy("probabilities"), axis=1).tolist() == [0, 2]


def test_images_of_digits_answer(client: triton.InferenceServerClient, key: dict[str, str]) -> None:
    name, datatype, shape = next(
        (each.name, each.datatype, each.shape) for each in client.get_model_metadata("digits", headers=key).inputs
    )
    images = np.zeros((3, *shape[1:]), np.float32)
    answer = client.infer("digits", [tensor(name, images, datatype)], headers=key, parameters=PARAMETERS)
    labels = answer.as_numpy("label")
    assert labels.shape == (3,)
    assert len(set(labels.tolist())) == 1


def test_the_best_classes_are_named(client: triton.InferenceServerClient, key: dict[str, str]) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=1)]
    answer = client.infer(
        "iris", [iris_input()], model_version="v1", outputs=outputs, headers=key, parameters=PARAMETERS
    )
    best = [text[0].decode().split(":")[1:] for text in answer.as_numpy("probabilities")]
    assert best == [["0", "setosa"], ["2", "virginica"]]


def test_a_model_of_two_inputs_answers(client: triton.InferenceServerClient, key: dict[str, str]) -> None:
    left, right = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([10, -(2**53) - 1], np.int64)
    answer = client.infer("pair", pair_inputs(left, right), headers=key, parameters=PARAMETERS)
    assert answer.as_numpy("same").tolist() == right.tolist()
    assert np.allclose(answer.as_numpy("sum"), left + right.astype(np.float32)[:, None])


def test_callbacks_each_get_their_own_answer(client: triton.InferenceServerClient, key: dict[str, str]) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    left = np.zeros((1, 3), np.float32)
    for number in range(64):
        client.async_infer(
            "pair",
            pair_inputs(left, np.array([number])),
            lambda result, error: answers.put(error or result),
            request_id=str(number),
            headers=key,
            parameters=PARAMETERS,
        )
    got = {answer.get_response().id: answer.as_numpy("same").tolist() for answer in (answers.get() for _ in range(64))}
    assert got == {str(number): [number] for number in range(64)}


async def test_the_client_for_asyncio_answers(keyed: KeyedStack, key: dict[str, str]) -> None:
    async with triton_aio.InferenceServerClient(address_of(keyed), **trust(keyed)) as client:
        assert await client.is_server_ready()
        left = np.zeros((1, 3), np.float32)
        answers = await asyncio.gather(
            *(
                client.infer("pair", pair_inputs(left, np.array([number])), headers=key, parameters=PARAMETERS)
                for number in range(32)
            )
        )
    assert [answer.as_numpy("same").tolist() for answer in answers] == [[number] for number in range(32)]


def test_what_is_wrong_has_its_status(
    client: triton.InferenceServerClient, keyed: KeyedStack, key: dict[str, str]
) -> None:
    def infer(name: str = "iris", **options: Any) -> Callable[[], Any]:
        return lambda: client.infer(name, [iris_input()], **{"headers": key, **options})

    assert refusal_of(infer("rose")) == ("StatusCode.NOT_FOUND", "no model 'rose'; there are: digits, iris, pair")
    assert refusal_of(infer("pair"))[0] == "StatusCode.INVALID_ARGUMENT"
    assert refusal_of(infer(priority=3))[0] == "StatusCode.INVALID_ARGUMENT"
    assert refusal_of(infer(outputs=[triton.InferRequestedOutput("x")]))[0] == "StatusCode.INVALID_ARGUMENT"
    status, message = refusal_of(infer(headers={}))
    assert (status, "Authorization: Bearer" in message) == ("StatusCode.UNAUTHENTICATED", True)
    assert client.infer("iris", [iris_input()], headers={"x-api-key": keyed.admin_key}, parameters=PARAMETERS)


def test_a_key_makes_calls_one_request(client: triton.InferenceServerClient, key: dict[str, str]) -> None:
    headers = key | {"idempotency-key": "triton-grpc-1"}
    first, again = (
        client.infer("iris", [iris_input()], headers=headers, parameters=PARAMETERS).get_response().id for _ in range(2)
    )
    assert first == again

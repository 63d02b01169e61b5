"""The Python client on the running stack, and the examples of docs/clients.md as they stand there."""

import asyncio
import re
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from inferlane_client import (
    AsyncClient,
    Cancelled,
    Client,
    Expired,
    InvalidInput,
    InvalidRequest,
    NotFound,
    Request,
    Status,
    TensorPrediction,
    TimedOut,
)
from tests.e2e.conftest import REPOSITORY, Stack
from tests.e2e.processes import paused

ROW = [5.1, 3.5, 1.4, 0.2]
TIME_S = 60
EXAMPLES = dict(
    re.findall(r"<!-- run: ([\w-]+) -->\n```\w+\n(.*?)```", (REPOSITORY / "docs" / "clients.md").read_text(), re.DOTALL)
)


@pytest.mark.parametrize(
    "rows",
    [[ROW], np.array([ROW], np.float32), pd.DataFrame([ROW]), pa.table({str(n): [x] for n, x in enumerate(ROW)})],
    ids=["list", "numpy", "pandas", "pyarrow"],
)
def test_rows_of_each_kind_are_answered(stack: Stack, rows: object) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client:
        answer = client.predict(rows, model="iris", version="v1")
    assert (answer.model, answer.version) == ("iris", "v1")
    assert [each["label"] for each in answer.predictions] == ["setosa"]


def test_a_request_outlives_the_wait_of_its_call_and_is_answered_by_its_id(stack: Stack) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client:
        with paused(stack, "worker-iris-v1"):
            with pytest.raises(TimedOut) as raised:
                client.predict([ROW], model="iris", version="v1", timeout_s=1)
            request_id = raised.value.request_id
            assert request_id is not None
            handle = client.handle(request_id)
            assert handle.status() is Status.QUEUED
        assert handle.result().predictions[0]["label"] == "setosa"
        assert handle.status() is Status.SUCCEEDED
        assert handle.cancel() is False


def test_arrays_travel_as_bytes_and_outputs_are_arrays(stack: Stack) -> None:
    rows = np.array([ROW, [6.7, 3.0, 5.2, 2.3]], np.float32)

    async def ask() -> TensorPrediction:
        async with AsyncClient(stack.url, timeout_s=TIME_S) as client:
            return await client.predict_tensors({"input": rows}, model="iris", version="v1")

    with Client(stack.url, timeout_s=TIME_S) as client:
        for answer in (client.predict_tensors(rows, model="iris", version="v1"), asyncio.run(ask())):
            assert (answer.model, answer.version) == ("iris", "v1")
            assert answer.outputs["probabilities"].dtype == np.float32
            assert answer.outputs["probabilities"].argmax(axis=1).tolist() == [0, 2]
            assert client.handle(answer.request_id).status() is Status.SUCCEEDED
        with pytest.raises(InvalidInput, match="no input is called 'flowers'"):
            client.predict_tensors({"flowers": rows}, model="iris")
        with pytest.raises(NotFound, match="nothing-of-the-kind"):
            client.predict_tensors(rows, model="nothing-of-the-kind")


def test_arrays_that_nobody_serves_in_time_are_one_request_that_goes_on(stack: Stack) -> None:
    rows = np.array([ROW], np.float32)
    with Client(stack.url, timeout_s=TIME_S) as client:
        with paused(stack, "worker-iris-v1"):
            with pytest.raises(TimedOut) as raised:
                client.predict_tensors(rows, model="iris", version="v1", timeout_s=1)
            request_id, key = raised.value.request_id, raised.value.idempotency_key
        answer = client.predict_tensors(rows, model="iris", version="v1", idempotency_key=key)
    assert answer.request_id == request_id


def test_events_tell_of_the_result_without_polls(stack: Stack) -> None:
    async def follow(request_id: str) -> list[str]:
        async with AsyncClient(stack.url, timeout_s=TIME_S) as client:
            return [event.name async for event in client.handle(request_id).events()]

    with Client(stack.url, timeout_s=TIME_S) as client:
        with paused(stack, "worker-iris-v1"):
            handle = client.submit([ROW], model="iris", version="v1")
            events = handle.events()
            assert next(events).status is Status.QUEUED
        (result,) = events
        assert result.prediction() == handle.result()
        assert asyncio.run(follow(handle.request_id)) == ["result"]
        assert list(handle.events(last_event_id=result.id)) == []
        with pytest.raises(NotFound, match="never-seen"):
            next(client.handle("never-seen").events())


def test_a_callback_is_refused_where_none_are_sent(stack: Stack) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client:
        for call in (client.predict, client.submit, client.predict_tensors):
            with pytest.raises(InvalidRequest, match="sends no callbacks") as raised:
                call(np.array([ROW], np.float32), model="iris", callback_url="https://shop.example/hook")
            assert raised.value.code == "callback_refused"


def test_a_request_that_is_taken_back_ends_cancelled(stack: Stack) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client:
        with paused(stack, "worker-iris-v1"):
            handle = client.submit([ROW], model="iris", version="v1")
            assert handle.cancel() is True
        with pytest.raises(Cancelled):
            handle.result()


def test_one_key_is_one_request(stack: Stack) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client:
        first = client.predict([ROW], idempotency_key="client-order-1")
        assert client.predict([ROW], idempotency_key="client-order-1").request_id == first.request_id
        assert client.predict([ROW]).request_id != first.request_id


def test_what_is_wrong_is_raised_as_its_kind(stack: Stack) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client:
        with pytest.raises(InvalidInput, match=r"instances\[0\]") as raised:
            client.predict([ROW[:-1]], model="iris")
        assert (raised.value.status, raised.value.code) == (422, "invalid_input")
        with pytest.raises(NotFound, match="nothing-of-the-kind"):
            client.predict([ROW], model="nothing-of-the-kind")
        with pytest.raises(NotFound, match="never-seen"):
            client.handle("never-seen").result()


def test_a_deadline_that_passes_is_told(stack: Stack) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client, paused(stack, "worker-iris-v1"):
        handle = client.submit([ROW], model="iris", version="v1", deadline_s=1)
        # Shorter than the patience of the worker's supervisor.
        with pytest.raises(Expired):
            handle.result(timeout_s=4)


def test_models_and_splits_are_read_and_set(stack: Stack) -> None:
    with Client(stack.url, timeout_s=TIME_S) as client:
        model = next(model for model in client.models() if model.name == "iris")
        assert model.is_default
        assert model.versions[0].inputs[0].shape == (-1, 4)
        before = client.traffic_split("iris")
        try:
            assert client.set_traffic_split({"v1": 3, "v2": 1}, model="iris").weights["v1"] == 0.75
            assert client.traffic_split("iris").weights["v2"] == 0.25
        finally:
            client.set_traffic_split(before.weights, model="iris")
        assert client.metrics("v1", model="iris", window_s=60)["version"] == "v1"


def test_many_requests_are_each_answered_in_their_order(stack: Stack) -> None:
    async def ask() -> list[str]:
        async with AsyncClient(stack.url, timeout_s=TIME_S) as client:
            requests = [
                Request(rows=[row], version=version, routing_key=f"k{n}")
                for n in range(50)
                for row, version in ((ROW, "v1"), ([6.7, 3.0, 5.2, 2.3], "v2"))
            ]
            answers = client.predict_many(requests, model="iris", concurrency=16)
            return [
                f"{answer.prediction().version} {answer.prediction().predictions[0]['label']}"
                async for answer in answers
            ]

    assert asyncio.run(ask()) == ["v1 setosa", "v2 virginica"] * 50


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_example_of_the_document_works(stack: Stack, name: str) -> None:
    code = EXAMPLES[name].replace("localhost:8000", f"127.0.0.1:{stack.api_port}")
    code = code.replace("localhost:8001", f"127.0.0.1:{stack.grpc_port}")
    is_python = name in {"client", "client-tensors", "client-triton", "client-triton-grpc"}
    program = [sys.executable, "-c", code] if is_python else ["bash", "-euo", "pipefail", "-c", code]
    done = stack.run(*program, timeout_s=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "setosa" in done.stdout

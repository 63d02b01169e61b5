"""One request, once: keys that stand for a request, requests taken back, requests refused in time."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.e2e.conftest import Answer, Stack
from tests.e2e.processes import paused, pid_of

pytestmark = pytest.mark.timeout(600)

PATH = "/v1/models/predict"
BODY = {"instances": [[5.1, 3.5, 1.4, 0.2]], "version": "v1", "timeout_s": 60}
DUPLICATES = 8


def send(stack: Stack, key: str, body: dict[str, Any] = BODY, **headers: str) -> Answer:
    return stack.call(PATH, body, idempotency_key=key, **headers)


def await_terminal(stack: Stack, request_id: str) -> Any:
    for _ in range(12):
        body = stack.call(f"/v1/predictions/{request_id}?wait_s=20").body
        if body["status"] != "QUEUED":
            break
    return body


def test_the_same_key_and_body_is_the_same_request(stack: Stack) -> None:
    """Guards `IdempotentSubmitter._submit_once`'s join: taken out, each call has an id of its own."""
    key = uuid4().hex
    first, second = send(stack, key), send(stack, key)
    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body


def test_duplicates_in_flight_join(stack: Stack) -> None:
    key = uuid4().hex
    with ThreadPoolExecutor(DUPLICATES) as clients:
        answers = list(clients.map(lambda _: send(stack, key), range(DUPLICATES)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["request_id"] for answer in answers}) == 1


def test_another_body_under_a_used_key_is_refused_with_both_fingerprints(stack: Stack) -> None:
    """Guards the comparison of fingerprints: taken out, the client gets the answer to another question."""
    key = uuid4().hex
    send(stack, key)
    answer = send(stack, key, BODY | {"instances": [[6.0, 3.0, 4.0, 1.0]]})
    assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused")
    printed = [word for word in answer.body["detail"].replace(",", "").replace(";", "").split() if len(word) == 32]
    assert len(set(printed)) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "käse"])
def test_a_key_that_is_none_is_told_its_limit(stack: Stack, key: str) -> None:
    answer = send(stack, key.encode().decode("latin-1"))
    assert (answer.status, answer.body["code"]) == (422, "invalid_parameter")
    assert "255" in answer.body["detail"]


def test_a_key_outlives_the_api_that_took_it(stack: Stack) -> None:
    """Guards that claims are in the store: kept in the process, the restarted API would predict anew."""
    key = uuid4().hex
    with paused(stack, "worker-iris-v1"):
        first = send(stack, key, prefer="respond-async")
        assert first.status == 202
        os.kill(pid_of(stack, "api"), signal.SIGKILL)
    again = None
    # The API is on its way back, and says 503 until it has the broker; the time limit of the test ends this.
    while again is None or again.status == 503:
        with suppress(OSError):
            again = send(stack, key)
    assert (again.status, again.body["request_id"]) == (200, first.body["request_id"])


def test_a_request_taken_back_ends_cancelled_and_stays_so(stack: Stack) -> None:
    """Guards `cancel_prediction`'s write: taken out, the worker answers when it goes on."""
    with paused(stack, "worker-iris-v1"):
        accepted = stack.call(PATH, BODY, prefer="respond-async")
        path = f"/v1/predictions/{accepted.body['request_id']}"
        cancelled = stack.call(path, method="DELETE")
        assert (cancelled.status, cancelled.body["error"]["code"]) == (200, "cancelled")
    # A later request of the same lane is answered, so the worker has passed the cancelled one.
    assert stack.call(PATH, BODY).status == 200
    assert stack.call(path).body == cancelled.body
    assert stack.call(path, method="DELETE").body == cancelled.body


def test_taking_back_what_has_ended_changes_nothing(stack: Stack) -> None:
    done = stack.call(PATH, BODY).body
    answer = stack.call(f"/v1/predictions/{done['request_id']}", method="DELETE")
    assert (answer.status, answer.body["status"]) == (200, "SUCCEEDED")
    assert stack.call("/v1/predictions/never-seen", method="DELETE").status == 404


def test_a_pool_that_stands_still_refuses_what_it_cannot_answer_in_time(stack: Stack) -> None:
    """Guards `Admission.admit`: taken out, every request is accepted to expire."""
    hurried = BODY | {"deadline_s": 2, "version": "v2", "timeout_s": 0}
    accepted: list[str] = []
    refused = None
    with paused(stack, "worker-iris-v2"):
        for _ in range(2_000):
            answer = stack.call(PATH, hurried)
            if answer.status == 503:
                refused = answer
                break
            accepted.append(answer.body["request_id"])
    assert refused is not None
    assert refused.body["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    # What was accepted still ends, in one of the two ways.
    assert {await_terminal(stack, request_id)["status"] for request_id in accepted[-5:]} <= {"SUCCEEDED", "EXPIRED"}


@pytest.mark.parametrize("source", [None, b"elsewhere", b"inferlane/api"])
def test_a_record_with_the_id_of_a_request_that_waits_is_another_request(stack: Stack, source: bytes | None) -> None:
    """Guards `contracts.identity` on the whole way: taken out, the client reads the answer to another's rows."""
    with paused(stack, "worker-iris-v1"):
        request_id = stack.call(PATH, BODY, prefer="respond-async").body["request_id"]
        produce(stack, b'{"instances": [[6.7, 3.0, 5.2, 2.3]]}', request_id=request_id, source=source)
    answered = await_terminal(stack, request_id)
    assert (answered["status"], answered["predictions"][0]["label"]) == ("SUCCEEDED", "setosa")
    # After it has ended, neither.
    produce(stack, b'{"instances": [[6.7, 3.0, 5.2, 2.3]]}', request_id=request_id, source=source)
    assert stack.call(f"/v1/predictions/{request_id}").body == answered


def produce(stack: Stack, value: bytes, *, request_id: str, source: bytes | None) -> None:
    """Produce a record of one's own, and return when its result is on the topic."""

    async def ask_and_read() -> None:
        consumer = AIOKafkaConsumer("inferlane.results", bootstrap_servers=stack.bootstrap_servers)
        async with consumer, AIOKafkaProducer(bootstrap_servers=stack.bootstrap_servers) as producer:
            await consumer.seek_to_end()
            headers = [("ce_id", request_id.encode()), ("ce_modelversion", b"v2")]
            headers += [] if source is None else [("ce_source", source)]
            await producer.send_and_wait("inferlane.requests", value, headers=headers)
            async with asyncio.timeout(60):
                async for record in consumer:
                    found = dict(record.headers)
                    if found["ce_id"].decode() == request_id:
                        assert found.get("ce_requestsource") == source
                        return

    asyncio.run(ask_and_read())

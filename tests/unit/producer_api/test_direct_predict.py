"""Predict calls that are served directly get the responses that ASGI gives, whatever becomes of them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.results import Result, Status, encode_wake_up
from inferlane.contracts.wire.v2 import encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.errors import InferlaneError, UnavailableError
from inferlane.runtime.api_keys import Scope, create_key, revoke_key
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.direct_calls import DirectHandler, direct_of
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from producer_api.app import HotPath
from producer_api.http.asgi import PREDICT_PATH
from producer_api.http.auth import KeyAuthentication, KeyRing
from producer_api.http.request_body import BodyMemory
from producer_api.predict.call import Call, CallReader
from producer_api.predict.endpoint import PredictEndpoint, ResponseBuilder, V1Format
from producer_api.predict.exchange import Exchanges
from producer_api.predict.pending import PendingRequests
from producer_api.predict.submitter import Submitter
from producer_api.predict.telemetry import ResponseMetrics
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import make_catalog
from tests.support.http_messages import LIMIT_S

ROW = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
CONTENT, JSON_LENGTH = encode_response(
    {"label": np.array([0]), "probabilities": np.array([[1.0, 0.0, 0.0]], np.float32)},
    model="iris",
    version="v1",
    form=ALL_AS_BYTES,
)
_OWN = re.compile(rb"[0-9a-f]{32}|date: [^\r]*|content-length: \d+")


class Store:
    """Has no result of any request; `marks` are the requests that it was told of."""

    def __init__(self) -> None:
        self.marks: list[str] = []

    async def mark_accepted(self, request_id: str, _accepted: object, *, ttl_s: float) -> None:
        assert ttl_s > 0
        self.marks.append(request_id)

    async def find(self, _key: str) -> None:
        return None


class Scene:
    """The predict endpoint with real parts up to broker and store; `answer` says what becomes of a record."""

    def __init__(self, **settings: Any) -> None:
        all_settings = load_settings(**settings)
        self.store = Store()
        self.pending = PendingRequests(self.store, None, instance="api", max_waiters=5)  # type: ignore[arg-type]  # as far as it is used
        self.answer: Callable[[str], Result | InferlaneError | None] = succeeded
        self.holds_back: Callable[[Any], None] | None = None
        self.held = BodyMemory(limit_bytes=1_000)
        self.asgi_calls = 0
        self.delivered: list[str] = []
        catalog: Any = make_catalog()
        parts: Any = {
            "catalog": catalog,
            "enqueuer": self,
            "pending": self.pending,
            "admission": SimpleNamespace(admit=lambda *_args, **_options: None),
            "store_capacity": SimpleNamespace(admit=lambda: None),
            "cancellations": None,
            "clock": SystemClock(),
        }
        self.submitter = Submitter(all_settings.api, all_settings.store, all_settings.stack.names, **parts)
        exchanges: Any = Exchanges(
            submitter=self.submitter,
            idempotent=self,  # type: ignore[arg-type]  # what is asked of it
            metrics=ResponseMetrics(catalog),
            delivered=SimpleNamespace(note=self.delivered.append),  # type: ignore[arg-type]  # what it is told
            cache=SimpleNamespace(place=lambda _call: None),  # type: ignore[arg-type]  # off
        )
        reader = CallReader(
            all_settings.api,
            all_settings.kafka,
            all_settings.webhooks,
            catalog=catalog,
            splits=SplitTable(),
            clock=SystemClock(),
        )
        call_format = V1Format(reader, ResponseBuilder(catalog))
        endpoint = PredictEndpoint(all_settings.api, all_settings.kafka, call_format, exchanges=exchanges)
        self._path = HotPath(None, {PREDICT_PATH: endpoint}, held=self.held)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asgi_calls += 1
        await self._path(scope, receive, send)

    def direct(self, scope: Any) -> DirectHandler | None:
        return direct_of(self._path, scope)

    def enqueue(self, record: OutRecord, on_acknowledged: Callable[[InferlaneError | None], None]) -> int:
        """Acknowledge the record at the next turn of the loop, and answer it at the one after."""
        if self.holds_back is not None:
            self.holds_back(on_acknowledged)
            return 0
        asyncio.get_running_loop().call_soon(self._answer, dict(record.headers)["ce_id"].decode(), on_acknowledged)
        return 0

    def _answer(self, request_id: str, on_acknowledged: Callable[[InferlaneError | None], None]) -> None:
        answer = self.answer(request_id)
        on_acknowledged(answer if isinstance(answer, InferlaneError) else None)
        if isinstance(answer, Result):
            self.woken = asyncio.create_task(self.pending._on_wake_up(encode_wake_up([answer])))

    def withdraw(self, _ticket: int) -> bool:
        return False

    async def submit(self, _key: object, _raw: bytes, call: Call, *, waits_for_result: bool) -> tuple[Call, Result]:
        """Stands for the claims of idempotency keys."""
        assert waits_for_result
        return call, succeeded(call.request_id)

    @property
    def waiting(self) -> int:
        return self.pending._count


def succeeded(request_id: str) -> Result:
    return Result(
        request_id=request_id,
        status=Status.SUCCEEDED,
        model="iris",
        version="v1",
        rows=1,
        content=CONTENT,
        json_length=JSON_LENGTH,
    )


def failed(request_id: str) -> Result:
    return Result(
        request_id=request_id,
        status=Status.FAILED,
        model="iris",
        version="v1",
        error_code="model_failed",
        error_detail="it broke",
    )


def refused(_request_id: str) -> InferlaneError:
    return UnavailableError("the broker is away")


def unanswered(_request_id: str) -> None:
    return None


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Callable[..., Any]]:
    """Yields what sends a call on one connection, and returns the bytes of the response."""
    async with serve_http(app, load_settings().ports, max_body_bytes=1024, host="127.0.0.1", port=0) as port:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)

            async def ask(body: Any, *headers: bytes) -> bytes:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                lines = (b"POST /v1/models/predict HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(raw))
                writer.write(b"\r\n".join((*lines, *headers, b"", raw)))
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                assert length is not None
                return head + await reader.readexactly(int(length[1]))

            yield ask
            writer.close()


@pytest.mark.parametrize(
    ("body", "answer", "status"),
    [
        (ROW, succeeded, 200),
        (ROW, failed, 500),
        (ROW, refused, 503),
        (ROW | {"timeout_s": 0.01}, unanswered, 202),
        ({"instances": [[1.0]]}, succeeded, 422),
        (b'{"instances": [', succeeded, 400),
        (ROW | {"model": "rose"}, succeeded, 404),
    ],
    ids=["succeeded", "failed", "refused by the broker", "not answered in time", "bad rows", "no JSON", "no model"],
)
async def test_the_response_is_that_of_asgi(body: Any, answer: Any, status: int) -> None:
    """Guards `DirectPredict`, `Submitter.begin` and `Submission`: nothing of a call stays behind."""
    scene = Scene()
    scene.answer = answer
    async with serving(scene) as ask:
        first, _, third = [await ask(body) for _ in range(3)]
    assert scene.asgi_calls == 2
    assert int(third.split(b" ")[1]) == status
    assert _OWN.sub(b"", third) == _OWN.sub(b"", first)
    assert (scene.waiting, scene.held.held_bytes) == (0, 0)
    assert scene.submitter.waits.quotas._taken == 0
    assert len(scene.delivered) == (3 if answer is succeeded and status == 200 else 0)
    assert len(scene.store.marks) == (3 if status == 202 else 0)


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        ({"instances": [[1.0]]}, ("iris", "none", "422", "invalid_input")),
        ({"instances": [[1.0]], "version": "v1"}, ("iris", "v1", "422", "invalid_input")),
        (ROW | {"timeout_s": -1}, ("iris", "none", "422", "invalid_parameter")),
        (ROW | {"model": "rose", "version": "v1"}, ("unknown", "unknown", "404", "unknown_model")),
        (ROW | {"version": "v99"}, ("iris", "unknown", "404", "unknown_model")),
        (b'{"instances": [', ("none", "none", "400", "undecodable")),
    ],
)
async def test_a_refused_call_is_counted_for_the_model_that_it_named(body: Any, labels: tuple[str, ...]) -> None:
    """It was counted for no model, so that the answers of a chosen model never showed what clients do wrong."""
    counted = dict(zip(("model", "version", "status", "reason"), labels, strict=True))
    before = REGISTRY.get_sample_value("inferlane_api_answers_total", counted) or 0

    async with serving(Scene()) as ask:
        for _ in range(3):
            await ask(body)

    assert REGISTRY.get_sample_value("inferlane_api_answers_total", counted) == before + 3


async def test_a_bug_in_a_response_ends_that_call_alone() -> None:
    """Guards `_response`: an error in the callback of a result would end the task that receives results."""
    scene = Scene()
    async with serving(scene) as ask:
        for _ in range(2):
            await ask(ROW)
        scene.answer = lambda request_id: Result(
            request_id=request_id, status=Status.SUCCEEDED, model="iris", version="v1", content=b"no response"
        )
        assert (await ask(ROW)).startswith(b"HTTP/1.1 500 ")
        scene.answer = succeeded
        assert (await ask(ROW)).startswith(b"HTTP/1.1 200 ")
    assert scene.asgi_calls == 2


@pytest.mark.parametrize("header", [b"Idempotency-Key: one", b"Prefer: respond-async", b"Content-Encoding: identity"])
async def test_what_needs_more_than_its_rows_computed_goes_through_asgi(header: bytes) -> None:
    """Guards the conditions of `PredictEndpoint.direct`. The response is of no interest here."""
    scene = Scene()
    async with serving(scene) as ask:
        for _ in range(4):
            await ask(ROW, header)
    assert scene.asgi_calls == 4


async def test_a_preferred_wait_is_that_of_the_call() -> None:
    """Guards `wait_s` of `DirectPredict`: the limit of 10 seconds would hold the call."""
    scene = Scene(default_wait_s=LIMIT_S * 10, max_wait_s=LIMIT_S * 10)
    scene.answer = unanswered
    async with serving(scene) as ask:
        responses = [await ask(ROW, b"Prefer: wait=0") for _ in range(3)]
    assert scene.asgi_calls == 2
    assert all(response.startswith(b"HTTP/1.1 202 ") for response in responses)


async def test_preferences_in_several_headers_are_those_of_one() -> None:
    """Guards `_preferences` in `PredictEndpoint.direct`, which read the first header alone."""
    scene = Scene(default_wait_s=LIMIT_S * 10, max_wait_s=LIMIT_S * 10)
    scene.answer = unanswered
    async with serving(scene) as ask:
        waits = [await ask(ROW, b"Prefer: other", b"Prefer: wait=0") for _ in range(3)]
        assert scene.asgi_calls == 2
        asynchronous = [await ask(ROW, b"Prefer: wait=5", b"Prefer: respond-async") for _ in range(3)]
    assert scene.asgi_calls == 5
    assert all(response.startswith(b"HTTP/1.1 202 ") for response in waits + asynchronous)
    applied = b"\r\npreference-applied: respond-async\r\n"
    assert [applied in response for response in waits + asynchronous] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("outcome", [None, UnavailableError("the broker was away")], ids=["accepted", "refused"])
async def test_a_broker_that_answers_after_the_call_has_ended_is_heeded_by_nobody(
    outcome: InferlaneError | None,
) -> None:
    """Guards `done` in `Submission.acknowledge`: its error ended the task that sends all requests, and the process."""
    scene = Scene(answer_grace_s=0.02)
    held: list[Callable[[InferlaneError | None], None]] = []
    scene.holds_back = held.append
    async with serving(scene) as ask:
        answers = [await ask(ROW | {"timeout_s": 0.01}) for _ in range(3)]
        for on_acknowledged in held:
            on_acknowledged(outcome)
        assert all(answer.startswith(b"HTTP/1.1 503 ") and b"unconfirmed" in answer for answer in answers)
        scene.holds_back = None
        assert (await ask(ROW)).startswith(b"HTTP/1.1 200 ")
    assert scene.asgi_calls == 3  # the last body has a length, and so a head, of its own
    assert (len(held), scene.waiting, scene.held.held_bytes) == (3, 0, 0)


async def test_bodies_of_direct_calls_count_against_the_limit_of_all() -> None:
    """Guards `has_room` in `DirectPredict`."""
    scene = Scene()
    async with serving(scene) as ask:
        for _ in range(2):
            await ask(ROW)
        scene.held.add(990)
        assert (await ask(ROW)).startswith(b"HTTP/1.1 503 ")
        scene.held.release(990)
        assert (await ask(ROW)).startswith(b"HTTP/1.1 200 ")
    assert scene.asgi_calls == 3


async def test_a_key_that_is_revoked_serves_no_direct_call(tmp_path: Path) -> None:
    """Guards the check in `KeyAuthentication.direct`, which each call passes."""
    path, clock, scene = tmp_path / "keys.toml", FakeClock(), Scene()
    key = create_key(path, name="one", scopes=[Scope.PREDICT])
    create_key(path, name="two", scopes=[Scope.PREDICT])
    header = f"Authorization: Bearer {key}".encode()
    async with serving(KeyAuthentication(scene, KeyRing(path, clock=clock))) as ask:
        for _ in range(3):
            assert (await ask(ROW, header)).startswith(b"HTTP/1.1 200 ")
        assert scene.asgi_calls == 2
        revoke_key(path, name="one")
        clock.advance(10)
        assert (await ask(ROW, header)).startswith(b"HTTP/1.1 401 ")
    assert scene.asgi_calls == 2

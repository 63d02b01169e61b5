"""What a client meets before our own code: the gate of the keys, and the limits on heads, bodies and patience."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from inferlane.runtime.api_keys import Scope, create_key, revoke_key
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.http.server import serve_http
from producer_api.http.asgi import PlainResponse
from producer_api.http.auth import KeyAuthentication, KeyRing
from producer_api.http.request_body import read_body
from tests.support.fakes.clock import FakeClock

PREDICT = "POST /v1/models/predict"
SPLIT = "POST /v1/traffic-split"
LONG_S = 120.0
SHORT_S = 0.05


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """Stands for the API: says how long the body was."""
    body = await read_body(scope, receive, 1024)
    await PlainResponse(200, b"%d" % len(body), b"text/plain").send(send)


@asynccontextmanager
async def serving(app: Any, settings: Settings) -> AsyncIterator[int]:
    async with serve_http(
        app, settings.ports, max_body_bytes=settings.kafka.max_body_bytes, host="127.0.0.1", port=0
    ) as port:
        yield port


async def answer_to(port: int, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send the parts and read until the server closes: every call here asks it to, or has to be cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(LONG_S):
            for part in parts:
                writer.write(part)
                await writer.drain()
            raw = await reader.read()
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split(" ")[1]), headers, body


def call(line: str, *headers: str, body: bytes = b"") -> bytes:
    head = (f"{line} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}", *headers)
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def code_of(body: bytes) -> str:
    problem = json.loads(body)
    assert problem["detail"]
    return str(problem["code"])


@pytest.mark.parametrize(
    ("line", "scope", "status"),
    [
        (PREDICT, None, 401),
        (PREDICT, Scope.PREDICT, 200),
        (PREDICT, Scope.ADMIN, 200),
        (SPLIT, None, 401),
        (SPLIT, Scope.PREDICT, 403),
        (SPLIT, Scope.ADMIN, 200),
        ("GET /v1/models", None, 401),
        ("GET /%76%31/models", None, 401),
        ("GET /nothing/here", None, 401),
        ("GET /livez", None, 200),
    ],
)
async def test_a_call_needs_a_key_with_its_scope(tmp_path: Path, line: str, scope: Scope | None, status: int) -> None:
    """Guards `self._authorize(scope)` in `KeyAuthentication.__call__`; fails when it is taken out."""
    path = tmp_path / "keys.toml"
    keys = {each: create_key(path, name=each, scopes=[each]) for each in Scope}
    gate = KeyAuthentication(read_all, KeyRing(path, clock=FakeClock()))
    sent = () if scope is None else (f"authorization: Bearer {keys[scope]}",)

    async with serving(gate, load_settings()) as port:
        answer = await answer_to(port, call(line, *sent, body=b"{}" if line.startswith("POST") else b""))

    assert answer[0] == status
    if status != 200:
        assert code_of(answer[2]) == {401: "unauthorized", 403: "forbidden"}[status]
        assert answer[1]["www-authenticate"].startswith('bearer realm="inferlane"')
        assert answer[1]["content-type"] == "application/problem+json"


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Bearer ", "Basic eDp5", "\xff"])
async def test_what_is_no_key_is_401(tmp_path: Path, header: str) -> None:
    path = tmp_path / "keys.toml"
    create_key(path, name="shop", scopes=[Scope.PREDICT])
    async with serving(KeyAuthentication(read_all, KeyRing(path, clock=FakeClock())), load_settings()) as port:
        status, _, body = await answer_to(port, call("GET /v1/models", f"authorization: {header}"))
    assert (status, code_of(body)) == (401, "unauthorized")


async def test_a_key_is_refused_once_it_is_revoked(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.toml", FakeClock()
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    asking = call("GET /v1/models", f"authorization: bearer {key}")
    async with serving(KeyAuthentication(read_all, KeyRing(path, clock=clock)), load_settings()) as port:
        assert (await answer_to(port, asking))[0] == 200
        revoke_key(path, "shop")
        clock.advance(1.0)
        assert (await answer_to(port, asking))[0] == 401


LIMITS = {"max_head_bytes": 2048, "max_headers": 20, "head_timeout_s": LONG_S, "body_timeout_s": LONG_S}


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ([call("GET /", f"x: {'a' * 3000}")], 431, "head_too_large"),
        ([call("GET /?" + "a" * 3000)], 431, "head_too_large"),
        ([call("GET /", *(f"x{number}: 1" for number in range(30)))], 431, "head_too_large"),
        ([b"GET / HTTP/1.1\r\nx: " + b"a" * 3000], 431, "head_too_large"),
        ([b"no such thing\r\n\r\n"], 400, "undecodable"),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n"], 400, "undecodable"),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"], 400, "undecodable"),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"], 400, "undecodable"),
        (
            [b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
            400,
            "undecodable",
        ),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"], 400, "undecodable"),
    ],
)
async def test_a_head_over_its_limits_or_malformed_is_a_problem_document(
    sent: list[bytes], status: int, code: str
) -> None:
    """Guards `check_head` and `_note_head` in `LimitedProtocol`; fails (200, or no answer) when they are taken out."""
    async with serving(read_all, load_settings(**LIMITS)) as port:
        answer = await answer_to(port, *sent)
    assert (answer[0], code_of(answer[2])) == (status, code)
    assert answer[1]["connection"] == "close"


async def test_a_head_within_its_limits_passes() -> None:
    async with serving(read_all, load_settings(**LIMITS)) as port:
        status, _, body = await answer_to(port, call("POST /", f"x: {'a' * 1500}", body=b"abc"))
    assert (status, body) == (200, b"3")


@pytest.mark.parametrize(
    ("sent", "setting"),
    [
        (b"GET / HTTP/1.1\r\nhost:", "head_timeout_s"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc", "body_timeout_s"),
    ],
)
async def test_a_call_that_never_ends_is_408(sent: bytes, setting: str) -> None:
    """Guards `_start_timer` in `data_received` of `LimitedProtocol`; no answer ever comes when it is taken out."""
    async with serving(read_all, load_settings(**LIMITS | {setting: SHORT_S})) as port:
        status, _, body = await answer_to(port, sent)
    assert (status, code_of(body)) == (408, "too_slow")
    assert f"INFERLANE_{setting.upper()}" in json.loads(body)["detail"]


async def test_a_connection_without_a_call_is_closed() -> None:
    """Guards the timer that `connection_made` of `LimitedProtocol` starts; the read never ends when it is taken out."""
    async with serving(read_all, load_settings(head_timeout_s=SHORT_S)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(LONG_S):
            assert await reader.read() == b""
        writer.close()


async def test_limits_hold_for_each_call_of_a_connection_by_itself() -> None:
    settings = load_settings(**LIMITS)
    one = b"POST / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 1500 + b"\r\ncontent-length: 3\r\n\r\nabc"
    async with serving(read_all, settings) as port:
        status, _, rest = await answer_to(port, one, one, call("POST /", body=b"abcd"))
    assert status == 200
    assert rest.count(b"HTTP/1.1 200") == 2
    assert rest.endswith(b"4")

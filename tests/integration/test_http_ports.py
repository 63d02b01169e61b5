"""The API, the ops port and the dashboard read messages by the same rules, whatever they answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dashboards.live.api_client import ApiClient
from dashboards.live.main import build_app
from dashboards.live.observer import SnapshotFeed
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.api_address import ApiAddress
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.ops import OpsApp, serve_ops
from tests.support.http_messages import FOLLOWER, LIMIT_S, READ, REFUSED, answers_to
from tests.support.running_api import SHORT_WAITS, running_api

PORTS = ["api", "ops", "dashboard"]


@asynccontextmanager
async def opened(kind: str, tmp_path: Path) -> AsyncIterator[int]:
    """Yields a port of that kind, with the settings that it has by default."""
    if kind == "api":
        async with running_api(tmp_path, **SHORT_WAITS) as api:
            yield api.settings.api.port
        return
    settings = load_settings(ops_port=0)
    if kind == "ops":
        async with serve_ops(
            OpsApp(live=dict, ready=dict), settings.ports, max_body_bytes=settings.kafka.max_body_bytes
        ) as port:
            yield port
        return
    feed = SnapshotFeed(None, None)  # type: ignore[arg-type]  # nothing here looks at the stack
    app = build_app(feed, ApiClient(None, ApiAddress(settings.api, settings.client), key=None), loopback_only=True)  # type: ignore[arg-type]  # as above
    async with serve_http(
        app, settings.ports, max_body_bytes=settings.kafka.max_body_bytes, host="127.0.0.1", port=0
    ) as port:
        yield port


@pytest.mark.parametrize("kind", PORTS)
async def test_ambiguous_messages_are_refused_or_read_in_one_way(tmp_path: Path, kind: str) -> None:
    """Guards that `serve_http` serves every port by `limited_protocol`."""
    async with opened(kind, tmp_path) as port:
        for refused in REFUSED:
            statuses = [status for status, _ in await answers_to(port, refused.sent, FOLLOWER)]
            assert len(statuses) == 1, (refused.name, statuses)
            assert statuses[0] in refused.statuses, (refused.name, statuses)
        for read in READ:
            statuses = [status for status, _ in await answers_to(port, read.sent, FOLLOWER)]
            assert len(statuses) == (1 if read.closes else 2), (read.name, statuses)
            # There is no such call, but it was understood.
            assert statuses[0] in {401, 403, 404, 405}, (read.name, statuses)
            assert read.closes or statuses[1] in {200, 503}, (read.name, statuses)


@pytest.mark.parametrize("kind", ["ops", "dashboard"])
async def test_a_head_without_end_is_refused(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as port, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
        assert (await reader.readuntil(b"\r\n")).split(b" ")[1] == b"431"
        writer.close()


@pytest.mark.parametrize("kind", ["ops", "dashboard"])
async def test_a_name_that_resolves_to_this_machine_opens_no_port(tmp_path: Path, kind: str) -> None:
    """Guards `LocalGuard` in `serve_ops`; the ops port answers 200 when it is taken out."""
    asked = b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    async with opened(kind, tmp_path) as port:
        assert [status for status, _ in await answers_to(port, asked)] == [403]


@pytest.mark.parametrize(
    ("kind", "path", "methods"),
    [
        ("ops", b"/metrics", b"GET, HEAD, OPTIONS"),
        ("ops", b"/livez", b"GET, HEAD, OPTIONS"),
        ("dashboard", b"/readyz", b"GET, HEAD, OPTIONS"),
        ("dashboard", b"/", b"GET, HEAD"),
        ("dashboard", b"/api/stream", b"GET, HEAD"),
    ],
)
async def test_another_method_gets_the_name_of_the_right_one(
    tmp_path: Path, kind: str, path: bytes, methods: bytes
) -> None:
    """Every method got the metrics of an ops port; the dashboard's 405 named none."""
    asked = b"PUT " + path + b" HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n"
    asked += b"Content-Type: application/json\r\nConnection: close\r\n\r\n"
    async with opened(kind, tmp_path) as port, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        head, _, _ = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    status, *headers = head.split(b"\r\n")
    assert status.split(b" ")[1] == b"405"
    allowed = [header.partition(b": ")[2] for header in headers if header.startswith(b"allow: ")]
    assert [set(value.split(b", ")) for value in allowed] == [set(methods.split(b", "))]


@pytest.mark.parametrize(("method", "path", "status"), [(b"GET", b"/nothing", 404), (b"POST", b"/livez", 405)])
async def test_the_ops_port_answers_with_problem_documents(
    tmp_path: Path, method: bytes, path: bytes, status: int
) -> None:
    asked = method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with opened("ops", tmp_path) as port, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\ncontent-type: application/problem+json\r\n" in head + b"\r\n"
    problem = json.loads(body)
    assert (problem["status"], path.decode() in problem["detail"]) == (status, True)


@pytest.mark.parametrize(("kind", "path"), [("api", b"/v1/models"), ("ops", b"/metrics")])
async def test_options_are_answered_without_a_body(tmp_path: Path, kind: str, path: bytes) -> None:
    asked = b"OPTIONS " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with opened(kind, tmp_path) as port, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert (head.startswith(b"HTTP/1.1 204 "), body) == (True, b"")
    assert b"\r\nallow: GET, HEAD, OPTIONS" in head
    assert b"content-length" not in head
    assert b"transfer-encoding" not in head

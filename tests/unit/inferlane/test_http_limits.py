"""What one connection can cost: memory, sockets and time are bounded, whatever a client does."""

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from inferlane.runtime.config import load_settings
from inferlane.runtime.http import connection_limits, protocol
from inferlane.runtime.http.connection_limits import connection_limit
from inferlane.runtime.http.protocol import LimitedProtocol
from inferlane.runtime.http.server import serve_http
from tests.support.echo_server import echo, echoing
from tests.support.http_messages import FOLLOWER, LIMIT_S, answers_to
from tests.support.parts import eventually

GET = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT_S = 0.05


@pytest.mark.parametrize(
    ("begin", "packet"),
    [
        (b"0\r\n", b"X: %s\r\n" % (b"a" * 1000)),
        (b"0\r\n", b"X:\r\n" * 200),
        (b"0\r\nX: ", b"a" * 1000),
        (b"1;a=", b"a" * 1000),
        (b"", b"0" * 1000),
    ],
    ids=["trailers", "empty trailers", "one trailer", "a chunk extension", "zeros of a chunk size"],
)
async def test_what_frames_a_body_has_a_limit(begin: bytes, packet: bytes) -> None:
    """Guards `_note_frame` and the count in `on_header`; the server never answers when they are taken out."""
    async with echoing() as port, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED + begin)
        answer = asyncio.create_task(reader.readuntil(b"\r\n"))
        for _ in range(1000):
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0)
            if answer.done():
                break
        assert answer.done()
        assert answer.result().split(b" ")[1] == b"431"
        writer.close()


@pytest.mark.parametrize(("version", "body"), [(b"1.0", b"onetwo"), (b"1.1", b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")])
async def test_an_answer_of_unknown_length_has_chunks_for_clients_that_know_them(version: bytes, body: bytes) -> None:
    """Guards `end_with_connection`: a client of HTTP/1.0 takes the size of a chunk for a part of the body."""

    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with (
        serve_http(stream, load_settings().ports, max_body_bytes=1024, host="127.0.0.1", port=0) as port,
        asyncio.timeout(LIMIT_S),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/%s\r\nHost: localhost\r\nConnection: close\r\n\r\n" % version)
        head, _, sent = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert sent == body
    assert (b"transfer-encoding: chunked" in head) == (version == b"1.1")


async def test_nothing_is_kept_of_a_connection_that_its_client_has_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `_unset_keepalive_if_required`; each reset took 11 kB for 75 s when it is taken out."""
    made: list[weakref.ref[Any]] = []
    connection_made = LimitedProtocol.connection_made

    def noting(self: LimitedProtocol, transport: Any) -> None:
        made.append(weakref.ref(self))
        connection_made(self, transport)

    monkeypatch.setattr(LimitedProtocol, "connection_made", noting)
    async with echoing() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % 1)
        await reader.readuntil(b"\r\n")
        # To close with no time to linger sends a reset.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

        async def is_gone() -> bool:
            gc.collect()
            return made[0]() is None

        await eventually(is_gone)


async def test_more_than_sixteen_requests_do_not_wait_on_one_connection() -> None:
    """Guards `_MAX_PIPELINED`; fails (40 answers) when the check is taken out."""
    async with echoing() as port:
        answers = await answers_to(port, b"".join(GET % number for number in range(40)))
    assert [answer["path"] for _, answer in answers[:-1]] == [f"/{number}" for number in range(len(answers) - 1)]
    assert [status for status, _ in answers] == [200] * 17 + [429]


async def test_sixteen_requests_may_wait() -> None:
    async with echoing() as port:
        answers = await answers_to(port, b"".join(GET % number for number in range(16)) + FOLLOWER)
    assert [status for status, _ in answers] == [200] * 17


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Guards `pause_writing`; the app waits for ever when its timer is taken out."""
    ended = asyncio.Event()

    async def large(_scope: Any, _receive: Any, send: Any) -> None:
        """Answer with more than the buffers of the system take; returns when it is read, or cut off."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 50_000_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    async with serve_http(
        large,
        load_settings(write_timeout_s=SHORT_S).ports,
        max_body_bytes=load_settings().kafka.max_body_bytes,
        host="127.0.0.1",
        port=0,
    ) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % 1)
        async with asyncio.timeout(LIMIT_S):
            await ended.wait()
        writer.close()


async def test_empty_lines_keep_no_connection_open() -> None:
    """Guards where `_idle_since_s` is set: only a response begins the limit anew, and not each packet."""
    async with (
        serve_http(
            echo,
            load_settings().ports,
            max_body_bytes=load_settings().kafka.max_body_bytes,
            host="127.0.0.1",
            port=0,
            timeout_keep_alive=SHORT_S,
        ) as port,
        asyncio.timeout(LIMIT_S),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % 1)
        await reader.readuntil(b"}")
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"\r\n")
            await asyncio.sleep(SHORT_S / 10)
        writer.close()


async def hello(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer before the body is there."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def test_an_answer_instead_of_100_continue_ends_the_connection() -> None:
    """Guards `close_unless_continued`: nobody knows whether a body or a request comes next."""
    asked = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    async with serve_http(
        hello, load_settings().ports, max_body_bytes=load_settings().kafka.max_body_bytes, host="127.0.0.1", port=0
    ) as port:
        assert [status for status, _ in await answers_to(port, asked)] == [200]


async def test_a_body_that_is_expected_is_asked_for() -> None:
    asked = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    async with echoing() as port, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert b'"abc"' in await reader.readuntil(b"}")
        writer.close()


async def test_a_client_of_http_1_0_is_not_told_to_continue() -> None:
    """It would take the 100 for its answer. Source: RFC 9110, section 10.1.1."""
    asked = b"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"
    async with echoing() as port, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"abc"' in answer
        writer.close()


async def send_for_ever(writer: asyncio.StreamWriter, packet: bytes) -> None:
    while True:
        writer.write(packet)
        await writer.drain()


async def test_a_body_that_is_not_wanted_does_not_come_for_ever() -> None:
    """Guards `_DISCARD_FACTOR` in `on_body`; the server reads on when it is taken out."""
    settings = load_settings(max_body_bytes=1024)
    async with (
        serve_http(
            hello, settings.ports, max_body_bytes=settings.kafka.max_body_bytes, host="127.0.0.1", port=0
        ) as port,
        asyncio.timeout(LIMIT_S),
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED)
        with pytest.raises(ConnectionError):
            await send_for_ever(writer, b"400\r\n" + b"x" * 1024 + b"\r\n")


@asynccontextmanager
async def idle(port: int) -> AsyncIterator[None]:
    """Hold a connection open that has made one call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(LIMIT_S):
        writer.write(GET % 1)
        await reader.readuntil(b"}")
    yield
    writer.close()
    await writer.wait_closed()


async def test_connections_over_the_limit_are_told_so_and_probes_are_answered() -> None:
    """Guards `surplus` in `connection_made`; fails (200) when it is taken out."""
    async with echoing(max_connections=1) as port, idle(port):
        (status, answer), *more = await answers_to(port, GET % 1 + FOLLOWER)
        assert (status, answer["code"], more) == (503, "too_many_connections", [])
        assert [status for status, _ in await answers_to(port, FOLLOWER)] == [200]


async def test_connections_far_over_the_limit_are_closed_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_MAX_REFUSING", 0)
    async with echoing(max_connections=1) as port, idle(port), asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()


def test_open_files_lower_the_limit_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits.resource, "getrlimit", lambda _: (256, 4096))
    assert connection_limit(12_000) == 192
    assert connection_limit(100) == 100

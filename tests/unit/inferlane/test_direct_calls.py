"""Calls that are served without ASGI: which they are, and that a client cannot tell them from others."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.config import load_settings
from inferlane.runtime.http import direct_calls
from inferlane.runtime.http.direct_calls import DirectCycle, DirectHandler, body_length
from inferlane.runtime.http.server import LocalGuard, serve_http
from producer_api.http.asgi import PlainResponse
from tests.support.http_messages import LIMIT_S
from tests.support.parts import eventually

HEAD = b"POST /p HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n"
JSON = b"application/json"
NO_LIMITS: Mapping[str, float] = MappingProxyType({})


class App:
    """Says how each call was served; holds direct calls back while `gate` is closed."""

    def __init__(self) -> None:
        self.served: list[tuple[str, bytes]] = []
        self.open: list[DirectCycle] = []
        self.holds = False
        self.serves_direct = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, is_more = b"", scope["method"] == "POST"
        while is_more:
            message = await receive()
            body, is_more = body + message["body"], message["more_body"]
        self.served.append(("asgi", body))
        await PlainResponse(200, json.dumps({"body": body.decode()}).encode(), JSON).send(send)

    def direct(self, scope: Any) -> DirectHandler | None:
        return self.begin if scope["path"] == "/p" else None

    def begin(self, body: bytes, cycle: DirectCycle, _caller: str = "") -> bool:
        if not self.serves_direct:
            return False
        self.served.append(("direct", body))
        if self.holds:
            self.open.append(cycle)
        else:
            self.end(cycle, body)
        return True

    @staticmethod
    def end(cycle: DirectCycle, body: bytes) -> None:
        cycle.respond(200, JSON, json.dumps({"body": body.decode()}).encode())


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *packets: bytes) -> bytes:
        """Send the packets, each by itself, and return the bytes of the response."""
        for packet in packets:
            self.writer.write(packet)
            await self.writer.drain()
            await asyncio.sleep(0)
        return await self.answer()

    async def answer(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        return head + await self.reader.readexactly(int(length[1]))

    async def teach(self) -> None:
        """Send the head twice, after which it is known."""
        for _ in range(2):
            await self.ask(HEAD + b"one")


@asynccontextmanager
async def serving(app: Any, *, limits: Mapping[str, float] = NO_LIMITS, **options: Any) -> AsyncIterator[Client]:
    ports = load_settings(**limits).ports
    async with serve_http(app, ports, max_body_bytes=1024, host="127.0.0.1", port=0, **options) as port:
        async with asyncio.timeout(LIMIT_S):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            yield client
            client.writer.close()


async def test_the_third_call_of_a_head_is_direct_and_its_response_is_the_same() -> None:
    """Guards `_note_unknown` and `DirectCycle.respond`."""
    app = App()
    async with serving(app) as client:
        first, *more = [await client.ask(HEAD + b"abc") for _ in range(4)]
    assert [by for by, _ in app.served] == ["asgi", "asgi", "direct", "direct"]
    without_date = [re.sub(rb"date: [^\r]*", b"", response) for response in (first, *more)]
    assert set(without_date) == {without_date[0]}


async def test_a_head_that_never_comes_again_is_not_kept() -> None:
    """Guards the comparison with the head before: clients that trace their calls would fill the memory of heads."""
    app = App()
    async with serving(app) as client:
        for number in range(20):
            head = HEAD.replace(b"Host", b"traceparent: %d\r\nHost" % (number // 2 + number % 2 * 100))
            await client.ask(head + b"abc")
    assert {by for by, _ in app.served} == {"asgi"}


@pytest.mark.parametrize(
    "packets",
    [
        (HEAD[:20], HEAD[20:] + b"abc"),
        (HEAD + b"a", b"bc"),
        (HEAD, b"a", b"bc"),
        (b"\r\n" + HEAD + b"abc",),
        (HEAD.replace(b": 3", b":  3") + b"abc",),
        (b"POST /p HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",),
    ],
    ids=["a cut head", "a cut body", "a body in two packets", "an empty line first", "another head", "chunks"],
)
async def test_what_does_not_come_whole_with_that_head_goes_through_asgi(packets: tuple[bytes, ...]) -> None:
    """Guards the length in `_begin`, and that known heads are compared byte by byte."""
    app = App()
    async with serving(app) as client:
        await client.teach()
        for _ in range(3):
            assert (await client.ask(*packets)).endswith(b'{"body": "abc"}')
        assert (await client.ask(HEAD + b"abc")).endswith(b'{"body": "abc"}')
    assert app.served[-1][0] == "direct"


async def test_requests_on_one_connection_are_answered_in_their_order() -> None:
    """Guards `is_idle`: a direct call waits behind whatever is under way, and what comes after it waits too."""
    app = App()
    async with serving(app) as client:
        await client.teach()
        app.holds = True
        client.writer.write(HEAD + b"one")
        await eventually_open(app, 1)
        client.writer.write(HEAD + b"two" + HEAD + b"thr")
        await client.writer.drain()
        app.end(app.open.pop(), b"one")
        answers = [await client.answer() for _ in range(3)]
    assert [answer[-5:-2] for answer in answers] == [b"one", b"two", b"thr"]
    assert app.served[-3:] == [("direct", b"one"), ("asgi", b"two"), ("asgi", b"thr")]


async def test_a_body_in_a_packet_of_its_own_is_direct_too() -> None:
    """Guards `_held_head`: so do most clients in Python."""
    app = App()
    async with serving(app) as client:
        answers = [await client.ask(HEAD, b"ab%d" % number) for number in range(4)]
        assert (await client.ask(HEAD + b"abc")).endswith(b'{"body": "abc"}')
    assert [answer[-5:-2] for answer in answers] == [b"ab0", b"ab1", b"ab2", b"ab3"]
    assert [by for by, _ in app.served] == ["asgi", "asgi", "direct", "direct", "direct"]


async def test_a_body_that_does_not_follow_its_known_head_ends_the_connection() -> None:
    """Guards the timer of `_held_head`; the connection stays when it is taken out."""
    app = App()
    async with serving(app, limits={"body_timeout_s": 0.05}) as client:
        await client.teach()
        client.writer.write(HEAD)
        assert (await client.reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_a_refusal_of_a_held_head_has_its_body_after_a_head_call() -> None:
    """Guards `_answers_head`: the parser's last call was a HEAD, whose response has no body."""
    app = App()
    async with serving(app, limits={"body_timeout_s": 0.05}) as client:
        await client.teach()
        client.writer.write(b"HEAD /h HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.write(HEAD)
        head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert f"content-length: {len(body)}".encode() in head
    assert body


async def test_the_time_for_a_body_begins_with_its_held_head() -> None:
    """Guards `ends_s` in `_receive_body`: the first byte of the body began it anew."""
    app = App()
    async with serving(app, limits={"body_timeout_s": LIMIT_S * 10}) as client:
        await client.teach()
        protocol = await protocol_of(app, client)
        client.writer.write(HEAD)
        await eventually_held(protocol, True)
        ends_s = protocol._timer.when()
        client.writer.write(b"o")
        await eventually_held(protocol, False)
        assert protocol._timer.when() == pytest.approx(ends_s, abs=0.001)
        app.serves_direct = False
        client.writer.write(b"ne")
        assert (await client.answer()).endswith(b'{"body": "one"}')


async def test_two_requests_behind_a_held_head_are_two() -> None:
    """Guards the length in `_begin`: what follows the body belongs to the next request."""
    app = App()
    async with serving(app) as client:
        await client.teach()
        client.writer.write(HEAD)
        await client.writer.drain()
        await asyncio.sleep(0)
        client.writer.write(b"one" + HEAD + b"two")
        assert [(await client.answer())[-5:-2] for _ in range(2)] == [b"one", b"two"]


async def protocol_of(app: App, client: Client) -> Any:
    """Return the server's end of the connection, after one more direct call; the app holds the next ones back."""
    app.holds = True
    client.writer.write(HEAD + b"one")
    await eventually_open(app, 1)
    app.end(app.open[0], b"one")
    await client.answer()
    return app.open[0]._protocol


async def eventually_held(protocol: Any, holds_head: bool) -> None:
    async def is_so() -> bool:
        return (protocol._held_head is not None) is holds_head

    await eventually(is_so)


async def eventually_open(app: App, count: int) -> None:
    async def is_open() -> bool:
        return len(app.open) == count

    await eventually(is_open)


async def test_what_the_handler_leaves_goes_through_asgi() -> None:
    """Guards the fallback of `data_received`: the parser has not seen the call, and sees it then."""
    app = App()
    async with serving(app) as client:
        await client.teach()
        app.serves_direct = False
        assert (await client.ask(HEAD + b"abc")).endswith(b'{"body": "abc"}')
        app.serves_direct = True
        assert (await client.ask(HEAD + b"def")).endswith(b'{"body": "def"}')
    assert app.served[-2:] == [("asgi", b"abc"), ("direct", b"def")]


async def test_a_response_to_a_client_that_is_gone_is_dropped() -> None:
    """Guards `disconnected`."""
    app = App()
    async with serving(app) as client:
        await client.teach()
        app.holds = True
        client.writer.write(HEAD + b"one")
        await eventually_open(app, 1)
        client.writer.close()

        async def is_gone() -> bool:
            return app.open[0].disconnected

        await eventually(is_gone)
        app.end(app.open[0], b"one")
        assert not app.open[0].response_started


async def test_a_direct_call_is_answered_while_the_server_stops_and_ends_its_connection() -> None:
    """Guards `keep_alive` of `DirectCycle`, and that the server waits for the connection."""
    app = App()
    stop = asyncio.Event()
    clients: asyncio.Queue[Client] = asyncio.Queue()

    async def serve_until_stopped() -> None:
        async with serve_http(app, load_settings().ports, max_body_bytes=1024, host="127.0.0.1", port=0) as port:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            await client.teach()
            await clients.put(client)
            await stop.wait()

    async with asyncio.timeout(LIMIT_S):
        server = asyncio.create_task(serve_until_stopped())
        client = await clients.get()
        app.holds = True
        client.writer.write(HEAD + b"one")
        await eventually_open(app, 1)
        stop.set()

        async def is_told() -> bool:
            return not app.open[0].keep_alive

        await eventually(is_told)
        app.end(app.open[0], b"one")
        answer = await client.reader.read()
        await server
    assert b"connection: close\r\n" in answer
    assert answer.endswith(b'{"body": "one"}')


async def test_a_call_that_outlives_the_time_to_stop_is_refused() -> None:
    """Guards `end_direct_call`: no task is there that uvicorn could cancel, and the client got no answer."""
    app = App()
    async with asyncio.timeout(LIMIT_S):
        async with serve_http(
            app,
            load_settings().ports,
            max_body_bytes=1024,
            host="127.0.0.1",
            port=0,
            timeout_graceful_shutdown=0,
        ) as port:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            await client.teach()
            app.holds = True
            client.writer.write(HEAD + b"one")
            await eventually_open(app, 1)
        answer = await client.reader.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"unavailable"' in answer


async def test_a_page_of_another_site_is_refused_however_often_it_calls() -> None:
    """Guards `LocalGuard.direct`."""
    app = App()
    head = HEAD.replace(b"Host", b"Origin: http://evil.example\r\nHost")
    async with serving(LocalGuard(app, allowed_hosts=frozenset())) as client:
        answers = [await client.ask(head + b"abc") for _ in range(4)]
        await client.teach()
        await client.ask(HEAD + b"abc")
    assert all(answer.startswith(b"HTTP/1.1 403 ") for answer in answers)
    assert app.served[-1] == ("direct", b"abc")


async def test_known_heads_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `_MAX_HEADS`."""
    monkeypatch.setattr(direct_calls, "_MAX_HEADS", 2)
    app = App()
    heads = [HEAD.replace(b"Host", b"X-Number: %d\r\nHost" % number) for number in range(3)]
    async with serving(app) as client:
        for head in heads:
            for _ in range(2):
                await client.ask(head + b"abc")
        app.served.clear()
        for head in reversed(heads):
            await client.ask(head + b"abc")
    assert [by for by, _ in app.served] == ["direct", "direct", "asgi"]


@pytest.mark.parametrize(
    "head",
    [
        HEAD[:-2],
        HEAD + b"\r\n",
        HEAD + HEAD,
        HEAD.replace(b"3", b"+3"),
        HEAD.replace(b"3", b"3, 3"),
        HEAD.replace(b"1.1", b"1.0"),
        HEAD.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"Host", b"Connection: close\r\nHost"),
        HEAD.replace(b"Host", b"Expect: 100-continue\r\nHost"),
        HEAD.replace(b"Host", b"Connection: upgrade\r\nUpgrade: h2c\r\nHost"),
    ],
)
def test_what_is_not_exactly_one_plain_head_is_none(head: bytes) -> None:
    """Guards each condition of `body_length`."""
    assert body_length(HEAD) == 3
    assert body_length(head) is None


@given(st.binary(max_size=40), st.integers(0, len(HEAD)))
def test_bytes_in_a_head_never_make_it_two(extra: bytes, position: int) -> None:
    """Whatever is accepted has its only empty line at its end."""
    head = HEAD[:position] + extra + HEAD[position:]
    if body_length(head) is not None:
        assert head.endswith(b"\n")
        assert head.count(b"\r\n\r\n") <= 1


async def test_a_connection_ends_when_it_was_idle_for_the_whole_limit() -> None:
    """Guards `left_s` in `_on_keep_alive_timer`: one timer serves all requests, and the limit counts from the last."""
    app = App()
    async with serving(app, timeout_keep_alive=LIMIT_S * 10) as client:
        await client.teach()
        protocol = await protocol_of(app, client)
        protocol._on_keep_alive_timer()
        assert protocol.timeout_keep_alive_task is not None
        assert not protocol.transport.is_closing()
        protocol._idle_since_s -= LIMIT_S * 10
        protocol._on_keep_alive_timer()
        assert await client.reader.read() == b""


async def test_a_call_under_way_outlives_the_limit_of_idle_connections() -> None:
    """Guards the check of `response_complete` in `_on_keep_alive_timer`."""
    app = App()
    async with serving(app, timeout_keep_alive=0.05) as client:
        await client.teach()
        app.holds = True
        client.writer.write(HEAD + b"one")
        await eventually_open(app, 1)
        protocol = app.open[0]._protocol

        async def is_over() -> bool:
            return protocol.timeout_keep_alive_task is None

        await eventually(is_over)
        app.end(app.open[0], b"one")
        assert (await client.answer()).endswith(b'{"body": "one"}')
        assert await client.reader.read() == b""

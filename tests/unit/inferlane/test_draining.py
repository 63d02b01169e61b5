"""A server that stops loses no request of a client that keeps its connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from inferlane.runtime.http.server import serve_http
from inferlane.runtime.settings import PortSettings
from tests.support.echo_server import echo
from tests.support.http_messages import LIMIT_S

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Server:
    """A server that a test stops; `gate` holds its answers back."""

    def __init__(self) -> None:
        self.port = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()
        self._stop = asyncio.Event()
        self._started = asyncio.Event()

    async def run(self) -> None:
        async with serve_http(self._app, PortSettings(), max_body_bytes=1024, host="127.0.0.1", port=0) as self.port:
            self._started.set()
            await self._stop.wait()

    async def open(self) -> Connection:
        """A connection that has had an answer."""
        await self._started.wait()
        connection = await asyncio.open_connection("127.0.0.1", self.port)
        assert b"connection: close" not in await ask(connection)
        return connection

    async def stop_listening(self) -> None:
        """Tell the server to stop, and return when it takes no new connection."""
        self._stop.set()
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                return
            writer.close()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.began.set()
        await self.gate.wait()
        await echo(scope, receive, send)


async def ask(connection: Connection) -> bytes:
    """Send a request and return the head of its answer."""
    connection[1].write(GET)
    return await answer(connection)


async def answer(connection: Connection) -> bytes:
    reader, _ = connection
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return head


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    async with asyncio.timeout(LIMIT_S):
        running = asyncio.create_task(server.run())
        yield server
        await running


async def test_a_request_on_an_idle_connection_is_answered_while_the_server_stops() -> None:
    """Guards `DrainingProtocol.shutdown`: the connection was closed with the request on its way."""
    async with serving() as server:
        connection = await server.open()
        await server.stop_listening()
        assert b"connection: close" in await ask(connection)
        assert await connection[0].read() == b""
        connection[1].close()


async def test_a_request_that_came_in_part_is_answered_when_it_is_whole() -> None:
    async with serving() as server:
        connection = await server.open()
        connection[1].write(GET[:20])
        await server.stop_listening()
        connection[1].write(GET[20:])
        assert b"connection: close" in await answer(connection)
        connection[1].close()


async def test_the_answer_under_way_says_that_it_is_the_last() -> None:
    async with serving() as server:
        connection = await server.open()
        server.gate.clear()
        server.began.clear()
        connection[1].write(GET)
        await server.began.wait()
        await server.stop_listening()
        server.gate.set()
        assert b"connection: close" in await answer(connection)
        connection[1].close()


async def test_a_connection_that_stays_idle_is_closed_and_the_server_ends() -> None:
    async with serving() as server:
        connection = await server.open()
        await server.stop_listening()
        assert await connection[0].read() == b""
        connection[1].close()


async def test_the_app_that_runs_learns_of_a_client_that_left_while_later_requests_wait() -> None:
    """Guards `DrainingProtocol.connection_lost`: uvicorn tells the last message alone, whose app was not started."""
    told = asyncio.Event()
    began = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()
        # As every app does that has not asked: it may go nowhere, and must not fail.
        await echo(scope, receive, send)

    async with (
        asyncio.timeout(LIMIT_S),
        serve_http(app, PortSettings(), max_body_bytes=1024, host="127.0.0.1", port=0) as port,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * 3)
        await began.wait()
        writer.close()
        await told.wait()

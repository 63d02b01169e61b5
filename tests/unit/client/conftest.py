"""A real HTTP server that answers as a test says, and both clients behind one way to ask."""

import asyncio
import inspect
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from inferlane_client import AsyncClient, Client, Retries

_STOPS_WITHIN_S = 20
# Retries as they are, without the time that they take.
QUICK = Retries(first_s=0.001, longest_s=0.002)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A call as the server saw it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    # The client's end of the connection.
    port: int


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """An answer; `None` as the document cuts the connection in the middle of one."""

    status: int = 200
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ScriptedServer:
    """Gives its answers in their order, the last one for ever; or what `answering` makes of each call."""

    url: str = ""
    answers: list[Scripted] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    answering: Callable[[Seen], Awaitable[Scripted]] | None = None

    def will(self, *answers: Scripted) -> None:
        self.answers[:] = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        call = Seen(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(),
            headers={name.decode(): value.decode() for name, value in scope["headers"]},
            body=body,
            port=scope["client"][1],
        )
        self.seen.append(call)
        if self.answering is not None:
            answer = await self.answering(call)
        else:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.document is None:
            # The server cuts a connection whose answer is not what it announced.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            raise ConnectionAbortedError
        raw = answer.document if isinstance(answer.document, bytes) else json.dumps(answer.document).encode()
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": raw})


@pytest.fixture
def server(running_server: ScriptedServer) -> ScriptedServer:
    running_server.answers.clear()
    running_server.seen.clear()
    running_server.answering = None
    return running_server


@pytest.fixture(scope="session")
def running_server() -> Iterator[ScriptedServer]:
    with serving(ScriptedServer(), "http", timeout_graceful_shutdown=1) as app:
        yield app


@contextmanager
def serving(app: ScriptedServer, scheme: str, **options: Any) -> Iterator[ScriptedServer]:
    """Serve the app in a thread of its own while the block runs; `options` are uvicorn's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app.url = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", **options))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield app
        finally:
            running.should_exit = True
            thread.join(_STOPS_WITHIN_S)


Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Call `what(client)` on a client of either kind, and return what comes of it; iterators are read to their end."""
    return _ask_sync if request.param == "sync" else _ask_async


def _ask_sync(url: str, what: Callable[[Any], Any], **options: Any) -> Any:
    with Client(url, **{"retries": QUICK, **options}) as client:
        answered = what(client)
        return list(answered) if inspect.isgenerator(answered) else answered


def _ask_async(url: str, what: Callable[[Any], Any], **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **{"retries": QUICK, **options}) as client:
            answered = what(client)
            if inspect.isasyncgen(answered):
                return [each async for each in answered]
            return await answered if inspect.isawaitable(answered) else answered

    return asyncio.run(run())

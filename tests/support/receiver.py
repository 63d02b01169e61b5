"""A receiver of callbacks over real HTTP, which answers as a test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.parts import free_port


@dataclass(frozen=True, kw_only=True)
class Received:
    """One call: its path, its headers by their names in lower case, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def callback_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass(kw_only=True)
class Receiver:
    """What was received, and what is answered: a status by the path."""

    port: int
    answers: Callable[[str], int] = lambda _path: 204
    location: str = ""
    retry_after: str = ""
    received: list[Received] = field(default_factory=list)
    # Paths that begin with /slow are answered once it is set.
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str, *, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def ids(self, path: str) -> list[str]:
        """The ids of the callbacks that came to the path, in their order."""
        return [call.callback_id for call in self.received if call.path == path]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(path=request.path, headers=headers, body=body))
        if request.path.startswith("/slow"):
            await self.released.wait()
        said: dict[str, Any] = {"location": self.location} if self.location else {}
        if self.retry_after:
            said["retry-after"] = self.retry_after
        return web.Response(status=self.answers(request.path), headers=said)


@asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[Receiver]:
    """Let the receiver listen while the block runs; before and after it, nobody is at its port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", receiver.port).start()
        yield receiver
    finally:
        receiver.released.set()
        await runner.cleanup()


def make_receiver() -> Receiver:
    return Receiver(port=free_port())

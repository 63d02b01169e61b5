"""A server of HTTP on one port, with the limits of `inferlane.runtime.http.protocol`."""

import asyncio
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvicorn

from inferlane.errors import ConfigurationError
from inferlane.runtime.http.protocol import limited_protocol
from inferlane.runtime.service import essential

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from inferlane.runtime.config import Settings

_STARTUP_TIMEOUT_S = 10.0
_STARTUP_POLL_S = 0.01
_BACKLOG = 2048
_TICK_S = 1.0
# Longer than what clients and proxies keep an idle connection: whoever closes first loses a request that is already on
# its way.
_KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """A server that leaves the signals to the process that runs it (`lifecycle`), and wakes it seldom."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> "Generator[None]":
        yield

    async def main_loop(self) -> None:
        """Keep the `Date` header true until told to stop; uvicorn's own loop does little more, 10 times a second."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._stop.wait()

    def stop(self) -> None:
        """Begin to shut down."""
        self.should_exit = True
        self._stop.set()


@asynccontextmanager
async def serve_http(app: Any, settings: "Settings", *, host: str, port: int, **options: Any) -> "AsyncIterator[int]":
    """Serve the ASGI `app` while the block runs; yields the port that was bound (for `port=0`, a free one).

    Raises:
        ConfigurationError: the port cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}. Choose another port.") from error
    options = {
        "http": limited_protocol(settings),
        "log_config": None,
        "access_log": False,
        "ws": "none",
        "lifespan": "off",
        "timeout_keep_alive": _KEEP_ALIVE_S,
        # Who stands in front of us is of no use here, and asking costs every call.
        "proxy_headers": False,
    } | options
    server = _Server(uvicorn.Config(app, **options))
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http:{port}")
    essential(task, may_end=lambda: server.should_exit)
    try:
        async with asyncio.timeout(_STARTUP_TIMEOUT_S):
            while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn offers a flag, no event
                await asyncio.sleep(_STARTUP_POLL_S)
        yield listener.getsockname()[1]
    finally:
        server.stop()
        await task
        listener.close()

"""The ops port of a process: /metrics, /livez and /readyz."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

Checks = Callable[[], Mapping[str, bool]]
"""Returns each dependency by name and whether it is well."""

Consumers = Callable[[], Mapping[str, object]]
"""Returns each consumer by name and what it does, a dataclass of plain values."""

_STARTUP_TIMEOUT_S = 10.0
_STARTUP_POLL_S = 0.01
_BACKLOG = 2048
_TICK_S = 1.0


class OpsApp:
    """A plain ASGI app; `live` and `ready` are asked anew for each request and must not block."""

    def __init__(self, *, live: Checks, ready: Checks, consumers: Consumers = dict) -> None:
        self._checks = {"/livez": live, "/readyz": ready}
        self._consumers = consumers

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/metrics":
            await _respond(send, 200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
        elif path in self._checks:
            status, body = health_body(self._checks[path](), self._consumers())
            await _respond(send, status, body, "application/json")
        else:
            await _respond(send, 404, b'{"detail":"this port has /metrics, /livez and /readyz"}', "application/json")


def health_body(checks: Mapping[str, bool], consumers: Mapping[str, object] | None = None) -> tuple[int, bytes]:
    """Return the status (200 when every check holds, else 503) and the JSON body.

    The body names each check, and says what each consumer (a dataclass of plain values) does.
    """
    well = all(checks.values())
    body: dict[str, object] = {
        "status": "ok" if well else "unavailable",
        "checks": {name: "ok" if holds else "failing" for name, holds in checks.items()},
    }
    if consumers:
        body["consumers"] = consumers
    return (200 if well else 503), msgspec.json.encode(body)


async def _respond(send: Any, status: int, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """A server that leaves the signals to the process that runs it (`inferlane.lifecycle`), and wakes it seldom."""

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
async def serve_http(app: Any, *, host: str, port: int, **options: Any) -> "AsyncIterator[int]":
    """Serve the ASGI `app` while the block runs; yields the port that was bound (for `port=0`, a free one).

    Raises:
        ConfigurationError: the port cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}. Choose another port.") from error
    options = {"log_config": None, "access_log": False, "ws": "none", "lifespan": "off"} | options
    server = _Server(uvicorn.Config(app, **options))
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http:{port}")
    try:
        async with asyncio.timeout(_STARTUP_TIMEOUT_S):
            while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn offers a flag, no event
                await asyncio.sleep(_STARTUP_POLL_S)
        yield listener.getsockname()[1]
    finally:
        server.stop()
        await task
        listener.close()

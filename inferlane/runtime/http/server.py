"""A server of HTTP on one port, and the guard of every port that asks for no key.

On loopback no key is required, so calls from pages that are open in a browser must be refused: by the host that they
name (DNS rebinding: a foreign name that resolves to this machine) and by their origin (cross-site request forgery).
Programs other than browsers send no origin, and pass. Source: Fetch Metadata, W3C, section 2.
"""

import asyncio
import errno
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import uvicorn

from inferlane.errors import ConfigurationError, quoted
from inferlane.runtime.http.direct_calls import DirectHandler, DirectProtocol, direct_of, limited_protocol
from inferlane.runtime.http.listen_address import ListenAddress
from inferlane.runtime.http.local_get import DEFAULT_PORTS
from inferlane.runtime.http.problem import send_problem
from inferlane.runtime.runfile import is_loopback
from inferlane.runtime.service import essential

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Generator

    from inferlane.runtime.settings import PortSettings

_STARTUP_TIMEOUT_S = 10.0
_STARTUP_POLL_S = 0.01
_BACKLOG = 2048
_OF_THE_PORT = frozenset({errno.EADDRINUSE, errno.EACCES, errno.EPERM})
_TICK_S = 1.0
# Longer than clients and proxies keep an idle connection: the side that closes first may lose a request that is already
# on its way.
_KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """A server that leaves the signals to the process that runs it (`lifecycle`), and wakes it seldom."""

    def __init__(self, config: uvicorn.Config, *, tls: "ssl.SSLContext | None", handshake_timeout_s: float) -> None:
        super().__init__(config)
        self._stop = asyncio.Event()
        # uvicorn's own option leaves the handshake asyncio's limit of a minute.
        self._tls: dict[str, Any] = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": handshake_timeout_s}

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        """Listen on the sockets."""
        loop = asyncio.get_running_loop()
        protocol = partial(
            # The name that uvicorn expects.
            cast("Any", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.servers = [
            await loop.create_server(protocol, sock=listener, backlog=_BACKLOG, **self._tls)
            for listener in sockets or ()
        ]
        self.started = True

    @contextmanager
    def capture_signals(self) -> "Generator[None]":
        yield

    async def main_loop(self) -> None:
        """Update the `Date` header until told to stop; uvicorn's own loop does little more, 10 times a second."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._stop.wait()

    async def shutdown(self, sockets: "list[socket.socket] | None" = None) -> None:
        """Wait for what is under way, for as long as the settings say; then end it with an error."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if isinstance(connection, DirectProtocol):
                connection.end_direct_call()

    def stop(self) -> None:
        """Begin to shut down: from now on every answer ends its connection."""
        cast("Any", self.config.http_protocol_class).is_draining = True
        self.should_exit = True
        self._stop.set()


@asynccontextmanager
async def serve_http(  # noqa: PLR0913 - what is served, where, and the limits
    app: Any,
    ports: "PortSettings",
    *,
    max_body_bytes: int,
    host: str,
    port: int,
    shares_port: bool = False,
    tls: "ssl.SSLContext | None" = None,
    **options: Any,
) -> "AsyncIterator[int]":
    """Serve the ASGI `app` while the block runs; yields the port that was bound (for `port=0`, a free one).

    `shares_port`: other processes of ours listen there too, and the system divides the connections among them.

    Raises:
        ConfigurationError: the host is no name or address of this machine, or the port cannot be bound.
    """
    try:
        address = ListenAddress.of(host)
        listener = socket.create_server(
            (address.host, port),
            family=address.family,
            backlog=_BACKLOG,
            reuse_port=shares_port,
            dualstack_ipv6=address.is_dual_stack,
        )
    except OSError as error:
        wrong = "port" if error.errno in _OF_THE_PORT else "host"
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another {wrong}."
        ) from error
    chosen: dict[str, Any] = {
        "interface": "asgi3",
        "http": limited_protocol(ports, max_body_bytes=max_body_bytes),
        "log_config": None,
        "access_log": False,
        "ws": "none",
        "lifespan": "off",
        "timeout_keep_alive": _KEEP_ALIVE_S,
        # Proxy headers are not used here, and reading them costs every call.
        "proxy_headers": False,
    } | options
    server = _Server(uvicorn.Config(app, **chosen), tls=tls, handshake_timeout_s=ports.head_timeout_s)
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


# Safe methods: they change nothing, and a browser does not give their answers to pages of other sites.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# `none` is a call by the user: an address that was typed in, or a tool of the browser.
_OWN_SITES = frozenset({"same-origin", "none"})


class LocalGuard:
    """Calls the app for calls that no page of another site can have made, else answers 403."""

    def __init__(self, app: Any, *, allowed_hosts: frozenset[str]) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts

    def __call__(self, scope: Any, receive: Any, send: Any) -> "Awaitable[None]":
        """Return the app's own coroutine: one of ours around it would cost each step of the call."""
        reason = self._refusal(scope) if scope["type"] == "http" else None
        if reason is not None:
            return send_problem(send, HTTPStatus.FORBIDDEN, "forbidden", reason)
        served: Awaitable[None] = self._app(scope, receive, send)
        return served

    def direct(self, scope: Any) -> DirectHandler | None:
        """Return what serves calls with this head directly: what the guard looks at is all in the head."""
        return direct_of(self._app, scope) if self._refusal(scope) is None else None

    def _refusal(self, scope: Any) -> str | None:
        headers = dict(scope["headers"])
        host = _text(headers.get(b"host"))
        reason = foreign_host(host, self._allowed_hosts)
        if reason is not None or scope["method"] in SAFE_METHODS:
            return reason
        return foreign_site(host, origin=_text(headers.get(b"origin")), site=_text(headers.get(b"sec-fetch-site")))


# Called for every call, and nearly all calls name the same host.
@lru_cache(maxsize=8)
def foreign_host(host: str | None, allowed_hosts: frozenset[str]) -> str | None:
    """Return why a call with this `Host` is refused; None if it is not. A call without `Host` is from no browser."""
    if host is None:
        return None
    name = _hostname(f"//{host}")
    if is_loopback(name) or name in allowed_hosts:
        return None
    return (
        f"the call names the host {quoted(host)}, and this port is for this machine alone; use http://localhost, "
        "or add the name to INFERLANE_ALLOWED_HOSTS"
    )


def foreign_site(host: str | None, *, origin: str | None, site: str | None) -> str | None:
    """Why a call that changes something was made by a page of another site; None if it was not, as far as it says."""
    if (site is None or site in _OWN_SITES) and (origin is None or _is_origin_of(origin, host or "")):
        return None
    return f"the call comes from a page of another site ({quoted(origin or site)}), which may not change anything here"


def _is_origin_of(origin: str, host: str) -> bool:
    try:
        page, here = urlsplit(origin), urlsplit(f"//{host}")
        default = DEFAULT_PORTS.get(page.scheme)
        ports = page.port or default, here.port or default
    except ValueError:
        return False
    return default is not None and page.hostname == here.hostname and ports[0] == ports[1]


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")

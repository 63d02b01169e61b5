"""The ops port of a process: /metrics, /livez and /readyz."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from inferlane.errors import quoted
from inferlane.runtime.http.problem import send_problem
from inferlane.runtime.http.server import LocalGuard, serve_http
from inferlane.runtime.runfile import is_loopback

if TYPE_CHECKING:
    from inferlane.runtime.settings import PortSettings

Checks = Callable[[], Mapping[str, bool]]
"""Returns each dependency by name and whether it is well."""

Consumers = Callable[[], Mapping[str, object]]
"""Returns each consumer, or each version, by name and what it does, a dataclass of plain values."""


_READS = frozenset({"GET", "HEAD"})
_ALLOW = (b"allow", b"GET, HEAD, OPTIONS")
# Rendering the metrics takes milliseconds of the event loop, and needs no key: an answer is reused for this many times
# its rendering time, so that all scrapers together take at most a twentieth of the time.
_REUSE_FACTOR = 20


class Exposition:
    """The metrics of this process as Prometheus reads them. Used from one event loop."""

    def __init__(self, write: Callable[[], bytes] = lambda: generate_latest(REGISTRY)) -> None:
        self._write = write
        self._text = b""
        self._fresh_until_s = 0.0

    def text(self) -> bytes:
        """Return the metrics, or those of a moment ago."""
        began_s = time.monotonic()
        if began_s >= self._fresh_until_s:
            self._text = self._write()
            ended_s = time.monotonic()
            self._fresh_until_s = ended_s + _REUSE_FACTOR * (ended_s - began_s)
        return self._text


EXPOSITION = Exposition()


class OpsApp:
    """A plain ASGI app; `live` and `ready` are called for each request and must not block."""

    def __init__(self, *, live: Checks, ready: Checks, consumers: Consumers = dict) -> None:
        self.show(live=live, ready=ready, consumers=consumers)

    def show(self, *, live: Checks, ready: Checks, consumers: Consumers = dict, versions: Consumers = dict) -> None:
        """Use these checks from now on."""
        self._checks = {"/livez": live, "/readyz": ready}
        self._consumers = consumers
        self._versions = versions

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        is_known = path == "/metrics" or path in self._checks
        if not is_known:
            detail = f"there is no {quoted(path)}; this port has {', '.join(['/metrics', *self._checks])}"
            await send_problem(send, HTTPStatus.NOT_FOUND, "not_found", detail)
        elif method == "OPTIONS":
            await send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT.value, "headers": [_ALLOW]})
            await send({"type": "http.response.body", "body": b""})
        elif method not in _READS:
            detail = f"{path} is for GET and HEAD, not for {quoted(method)}"
            await send_problem(send, HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", detail, headers=(_ALLOW,))
        elif path == "/metrics":
            await _respond(send, 200, EXPOSITION.text(), CONTENT_TYPE_LATEST)
        else:
            status, body = health_body(self._checks[path](), self._consumers(), self._versions())
            await _respond(send, status, body, "application/json")


def health_body(
    checks: Mapping[str, bool],
    consumers: Mapping[str, object] | None = None,
    versions: Mapping[str, object] | None = None,
) -> tuple[int, bytes]:
    """Return the status (200 when every check holds, else 503) and the JSON body.

    The body names each check, and has the state of each consumer and each version (a dataclass of plain values).
    """
    well = all(checks.values())
    body: dict[str, object] = {
        "status": "ok" if well else "unavailable",
        "checks": {name: "ok" if holds else "failing" for name, holds in checks.items()},
    }
    if consumers:
        body["consumers"] = consumers
    if versions:
        body["versions"] = versions
    return (200 if well else 503), msgspec.json.encode(body)


async def _respond(send: Any, status: int, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_ops(
    app: OpsApp, ports: "PortSettings", *, max_body_bytes: int, port: int | None = None
) -> AbstractAsyncContextManager[int]:
    """Serve the app on the ops port of the settings (or `port`); on loopback, refuse pages of other sites.

    Raises:
        ConfigurationError: when entered, if the port cannot be bound.
    """
    host = ports.ops_host
    served = LocalGuard(app, allowed_hosts=ports.known_hosts) if is_loopback(host) else app
    chosen = ports.ops_port if port is None else port
    return serve_http(served, ports, max_body_bytes=max_body_bytes, host=host, port=chosen)

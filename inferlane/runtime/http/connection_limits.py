"""The limits of one connection: the answers to calls that break them, and a sending side that closes in time."""

import asyncio
import resource
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools

from inferlane.runtime.http.problem import Refusal, send_problem
from inferlane.runtime.http.request_head import RefusedError

if TYPE_CHECKING:
    from inferlane.runtime.settings import PortSettings

# The parser's reasons for what is HTTP, but not ours: `HTTP/1.2`, and the preface of HTTP/2 with prior knowledge.
_OTHER_VERSIONS = frozenset({"Invalid HTTP version", "Pause on PRI/Upgrade", "Expected HTTP/2 Connection Preface"})


def pipeline_full(limit: int) -> Refusal:
    """Refuse a pipeline of more than `limit` waiting requests."""
    return Refusal(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        code="too_many_pipelined",
        detail=f"more than {limit} requests wait on this connection; read the answers, or open more connections",
        retryable=True,
    )


def too_many(what: str, count: int, ports: "PortSettings") -> Refusal:
    """Refuse a call with too many headers or trailers."""
    return Refusal(
        status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        code="head_too_large",
        detail=f"the call has {count} {what}, the limit is {ports.max_headers}; send fewer, or raise "
        "INFERLANE_MAX_HEADERS",
    )


def too_large(what: str, size_bytes: int, ports: "PortSettings") -> Refusal:
    """Refuse a call with too many bytes around its body."""
    return Refusal(
        status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        code="head_too_large",
        detail=f"the {what} have {size_bytes} bytes or more, the limit is {ports.max_head_bytes}; send less, or "
        "raise INFERLANE_MAX_HEAD_BYTES",
    )


def too_slow(part: str, limit_s: float, setting: str) -> Refusal:
    """Return the refusal of a call of which a part arrived too late."""
    detail = f"the {part} did not come whole within {limit_s:g} s; send faster or less, or raise {setting}"
    return Refusal(status=HTTPStatus.REQUEST_TIMEOUT, code="too_slow", detail=detail)


def refusal_of(error: httptools.HttpParserError) -> Refusal:
    """Return the refusal of a message that the parser rejected."""
    if isinstance(error.__context__, RefusedError):
        return error.__context__.refusal
    reason = str(error)
    if reason in _OTHER_VERSIONS:
        return Refusal(
            status=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
            code="version_not_supported",
            detail="the request is of another version than HTTP/1.1, which is all that this port speaks",
        )
    return Refusal(
        status=HTTPStatus.BAD_REQUEST, code="undecodable", detail=f"this is not HTTP/1.1 (RFC 9112): {reason}"
    )


# Probes are always answered: killing a process with too many connections would only move them to another one.
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})


def connection_limit(max_connections: int) -> int:
    """Return the limit, lowered to what the open files of this process allow.

    A quarter of the files is left for the broker, the store and the model; a process without one cannot even accept a
    connection to refuse it.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, soft * 3 // 4))


class ProbesOnly:
    """The app of a connection over the limit: it answers probes, and everything else with 503."""

    def __init__(self, app: Any, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        await send_problem(
            send,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too_many_connections",
            f"{self._limit} connections are open here, which is the limit; try again, or raise "
            "INFERLANE_MAX_CONNECTIONS and the limit of open files",
            retryable=True,
            headers=((b"retry-after", b"1"),),
        )


_HEAD = b"HTTP/1.1 "
# How long a connection that we end stays open for its client to end it too: too short cuts off answers on slow lines,
# too long lets clients that never close hold a socket each.
_LINGER_S = 2.0


class CoalescingTransport:
    """A transport that writes a response's head together with its body, and never waits for ever to close.

    uvicorn writes head and body one after the other, and uvloop passes each to the system at once: two system calls
    and two wake-ups of the client. So a head is held back until its body follows, at most one turn of the event loop.
    Everything but writing and closing is the transport's own.
    """

    def __init__(
        self,
        transport: Any,
        loop: asyncio.AbstractEventLoop,
        *,
        write_timeout_s: float,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._write_timeout_s = write_timeout_s
        self._head: bytes | None = None
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write after the data that is held back; hold back a head alone."""
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head + data)
        elif data.startswith(_HEAD) and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Return whether `close` was called; the client may still be sending then."""
        return self._is_closing or bool(self._transport.is_closing())

    def close(self) -> None:
        """Shut down the sending side, and close once the client has closed too or its time is over.

        After an immediate close the kernel would answer further data of the client with a reset, which could overtake
        our last answer. Source: RFC 9112, section 9.6.
        """
        if self.is_closing():
            return
        self._is_closing = True
        self._flush()
        if not self._transport.can_write_eof():
            self.close_idle()
            return
        try:
            self._transport.write_eof()
        except OSError:
            # The client has reset the connection, and the event loop has not reported it yet.
            self._transport.abort()
            return
        self._transport.resume_reading()
        self._await_client(self._loop.time() + self._write_timeout_s)

    def close_idle(self) -> None:
        """Close a connection on which nothing is under way."""
        self._is_closing = True
        self._transport.close()
        if not self._transport.can_write_eof():
            # TLS closes by a message that the client answers, and reads until then.
            self._await_client(self._loop.time() + self._write_timeout_s)
        elif self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._write_timeout_s, self._transport.abort)

    def forget(self) -> None:
        """Drop the data that is held back: the connection is gone."""
        self._head = None
        if self._timer is not None:
            self._timer.cancel()

    def _await_client(self, until_s: float) -> None:
        self._timer = self._loop.call_later(_LINGER_S, self._end, until_s)

    def _end(self, until_s: float) -> None:
        if self._transport.get_write_buffer_size() and self._loop.time() < until_s:
            self._await_client(until_s)
        else:
            self._transport.abort()

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head)


def close_unless_continued(cycle: Any) -> None:
    """Let an answer that comes before `100 Continue` end the connection.

    Nobody can know then whether the client goes on with its body or with another request. RFC 9110, section 10.1.1.
    """
    send = cycle.send

    async def send_noting(message: Any) -> None:
        if cycle.waiting_for_100_continue:
            cycle.keep_alive = False
        await send(message)

    cycle.send = send_noting


def end_with_connection(cycle: Any) -> None:
    """Let the end of the connection end an answer of unknown length: HTTP/1.0 has no chunks. RFC 9112, section 6.1.

    uvicorn sends chunks to every client, which one of HTTP/1.0 would take for a part of the body.
    """
    send = cycle.send
    is_counted = False

    async def send_plain(message: Any) -> None:
        nonlocal is_counted
        if message["type"] == "http.response.start":
            is_counted = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            # None lets uvicorn decide; what follows False is written as it is, and counted.
            cycle.chunked_encoding = None if is_counted else False
        elif not is_counted:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_plain

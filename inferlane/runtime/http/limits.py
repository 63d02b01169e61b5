"""What a call that breaks a limit of a connection is answered with."""

import resource
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools

from inferlane.runtime.http.head import CONTENT_TYPE, Refusal, RefusedError, encode_problem

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

# The parser's reasons for what is HTTP, but not ours: `HTTP/1.2`, and the preface of HTTP/2 with prior knowledge.
_OTHER_VERSIONS = frozenset({"Invalid HTTP version", "Pause on PRI/Upgrade", "Expected HTTP/2 Connection Preface"})


def pipeline_full(limit: int) -> Refusal:
    """More than `limit` requests wait for the answer before them."""
    return Refusal(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        code="too_many_pipelined",
        detail=f"more than {limit} requests wait on this connection; read the answers, or open more connections",
        retryable=True,
    )


def too_many(what: str, count: int, settings: "Settings") -> Refusal:
    """More headers or trailers than a call may have."""
    return Refusal(
        status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        code="head_too_large",
        detail=f"the call has {count} {what}, the limit is {settings.max_headers}; send fewer, or raise "
        "INFERLANE_MAX_HEADERS",
    )


def too_large(what: str, size_bytes: int, settings: "Settings") -> Refusal:
    """More bytes around the body than a call may have."""
    return Refusal(
        status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        code="head_too_large",
        detail=f"the {what} have {size_bytes} bytes or more, the limit is {settings.max_head_bytes}; send less, or "
        "raise INFERLANE_MAX_HEAD_BYTES",
    )


def too_slow(part: str, limit_s: float, setting: str) -> Refusal:
    """A part of a call that did not come in its time."""
    detail = f"the {part} did not come whole within {limit_s:g} s; send faster or less, or raise {setting}"
    return Refusal(status=HTTPStatus.REQUEST_TIMEOUT, code="too_slow", detail=detail)


def refusal_of(error: httptools.HttpParserError) -> Refusal:
    """What a message that the parser gave up on is answered with."""
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


# Without these a crowded process would be taken for a dead one and killed, which only moves the crowd.
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
    """The app of a connection over the limit: it answers probes, and anything else with 503."""

    def __init__(self, app: Any, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        body = encode_problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too_many_connections",
            f"{self._limit} connections are open here, which is the limit; try again, or raise "
            "INFERLANE_MAX_CONNECTIONS and the limit of open files",
            retryable=True,
        )
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": HTTPStatus.SERVICE_UNAVAILABLE.value, "headers": headers})
        await send({"type": "http.response.body", "body": body})

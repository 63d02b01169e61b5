"""What a call that breaks a limit of a connection is answered with."""

from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from inferlane.runtime.http.head import RefusedError
from inferlane.runtime.http.problem import Refusal

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

"""Responses: errors in the form that the clients of a path read, and bodies compressed where that is asked."""

import asyncio
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from inferlane.runtime.http.problem import CONTENT_TYPE
from producer_api.http.asgi import EMBEDDINGS_PATH, PlainResponse, is_v2
from producer_api.http.error_responses import UnconfirmedError, problem, problem_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferlane.errors import InferlaneError

JSON = b"application/json"

# A smaller body fits in a packet or two, compressed or not.
_COMPRESSED_FROM_BYTES = 1024
# The fastest level: it is the client's wait that is spent. What takes longer than a few hundred µs leaves the loop.
_LEVEL = 1
_IN_THREAD_BYTES = 16 * 1024
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS


def error_response(error: "InferlaneError", path: str) -> PlainResponse:
    """Return the response to a call of that path which failed with this error."""
    response = problem_of(error)
    if path == EMBEDDINGS_PATH:
        return response._replace(body=openai_error(response.status, error.code, str(error)), content_type=JSON)
    if is_v2(path):
        # The body has no place for it beside the message.
        which = f" (the request {error.request_id})" if isinstance(error, UnconfirmedError) else ""
        return response._replace(body=v2_error(f"{error}{which}"), content_type=JSON)
    return response


def refusal_response(status: int, code: str, detail: str, path: str) -> PlainResponse:
    """Return the response to a call of that path which the server itself refuses."""
    if path == EMBEDDINGS_PATH:
        return PlainResponse(status, openai_error(status, code, detail), JSON)
    if is_v2(path):
        return PlainResponse(status, v2_error(detail), JSON)
    return PlainResponse(status, problem(status, code, detail), CONTENT_TYPE.encode())


def v2_error(detail: str) -> bytes:
    """Encode the error body of the Open Inference Protocol, which is all that its clients read."""
    return msgspec.json.encode({"error": detail})


def openai_error(status: int, code: str | None, detail: str) -> bytes:
    """Encode the error body that OpenAI's clients read."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return msgspec.json.encode({"error": {"message": detail, "type": kind, "param": None, "code": code}})


def as_fastapi(response: PlainResponse) -> Response:
    """Return the response as one of FastAPI's."""
    headers = {name.decode(): value.decode() for name, value in response.headers}
    return Response(response.body, response.status, headers, media_type=response.content_type.decode())


def health_response(name: str, checks: "Mapping[str, bool]") -> PlainResponse:
    """Return the response to a health call of the Open Inference Protocol: whether all checks hold."""
    holds = all(checks.values())
    return PlainResponse(200 if holds else 503, msgspec.json.encode({name: holds}), JSON)


async def compressed(response: PlainResponse, accept_encoding: bytes | None) -> PlainResponse:
    """Return the response in the coding that the client prefers, gzip of equals; as it is if it wants none."""
    if len(response.body) < _COMPRESSED_FROM_BYTES:
        return response
    # Also where it is not compressed, so that no cache keeps that form for a client that prefers another.
    response = response._replace(headers=(*response.headers, (b"vary", b"accept-encoding")))
    coding = preferred_coding(accept_encoding) if accept_encoding else None
    if coding is None:
        return response
    if len(response.body) >= _IN_THREAD_BYTES:
        body = await asyncio.to_thread(_deflated, response.body, coding)
    else:
        body = _deflated(response.body, coding)
    return response._replace(body=body, headers=(*response.headers, (b"content-encoding", coding)))


def _deflated(body: bytes, coding: bytes) -> bytes:
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP if coding == b"gzip" else _ZLIB)
    return compressor.compress(body) + compressor.flush()


def preferred_coding(accept_encoding: bytes) -> bytes | None:
    """`gzip`, `deflate` or None, whichever the header prefers. Source: RFC 9110, section 12.5.3."""
    weights: dict[bytes, float] = {}
    for part in accept_encoding.lower().split(b","):
        name, _, parameters = part.partition(b";")
        weights[name.strip()] = _weight(parameters)
    wildcard = weights.get(b"*", 0.0)
    offered = {b"gzip": weights.get(b"gzip", weights.get(b"x-gzip", wildcard))}
    offered[b"deflate"] = weights.get(b"deflate", wildcard)
    best = max(offered, key=offered.__getitem__)
    # Where `identity` is not named it is acceptable, and less wanted than what is named.
    return best if offered[best] > 0 and offered[best] >= weights.get(b"identity", 0.0) else None


def _weight(parameters: bytes) -> float:
    name, _, value = parameters.partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0

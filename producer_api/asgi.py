"""Plain ASGI for the hot calls: read a body within its limit, send an answer."""

from typing import Any

from inferlane.errors import DecodeError, PayloadTooLargeError
from producer_api.content_coding import FEWER_ROWS, coding_of, inflated
from producer_api.held_bytes import hold_in
from producer_api.problems import InvalidParameterError

# What is read and thrown away of a body over its limit, so that the client can finish sending and read our answer.
_DISCARD_FACTOR = 32
# Where the gate notes in the scope whose key it was; absent where the API is open.
CALLER = "inferlane.caller"
# Whether that key may read and cancel the requests of others too; absent where the API is open, which means yes.
SEES_ALL = "inferlane.sees_all"
_GONE = "the client went away before its body was complete"


async def read_body(scope: Any, receive: Any, limit_bytes: int, *, remedy: str = FEWER_ROWS) -> bytes:
    """Return the whole body, inflated if it came compressed. `remedy` is what helps who sends too much.

    Raises:
        DecodeError: the client went away in the middle of it, or it is not in the coding that it says.
        PayloadTooLargeError: it is over the limit, as it came or inflated; up to 32 times the limit was read and
            dropped.
        UnsupportedCodingError: it came in a coding that is not read here.
        OverloadedError: the bodies of all calls together are over their limit.
    """
    codings = [bytes(value) for key, value in scope["headers"] if key == b"content-encoding"]
    body = await _read_raw(scope, receive, limit_bytes, remedy)
    coding = coding_of(codings) if codings else None
    if coding is None:
        return body
    whole = await inflated(body, coding, limit_bytes, remedy=remedy)
    if (hold := hold_in(scope)) is not None:
        hold.add(len(whole))
    return whole


async def _read_raw(scope: Any, receive: Any, limit_bytes: int, remedy: str) -> bytes:
    announced = content_length(scope)
    message = await receive()
    if message["type"] != "http.request":
        raise DecodeError(_GONE)
    body: bytes = message.get("body", b"")
    hold = hold_in(scope)
    if hold is not None:
        hold.add(len(body))
    if not message.get("more_body") and len(body) <= limit_bytes:
        return body
    # One buffer: a body that comes byte by byte would cost forty times itself in pieces.
    gathered = bytearray(body)
    received = len(body)
    while message.get("more_body") and message["type"] == "http.request" and received <= limit_bytes * _DISCARD_FACTOR:
        message = await receive()
        chunk = message.get("body", b"")
        received += len(chunk)
        if received <= limit_bytes:
            if hold is not None:
                hold.add(len(chunk))
            gathered += chunk
        else:
            gathered.clear()
    if message["type"] != "http.request":
        raise DecodeError(_GONE)
    if received > limit_bytes:
        raise PayloadTooLargeError(
            f"the body has {max(received, announced or 0)} bytes, the limit is {limit_bytes}; {remedy}"
        )
    return bytes(gathered)


def content_length(scope: Any) -> int | None:
    """What the client announced, or None."""
    raw = header(scope, b"content-length")
    return int(raw) if raw is not None and raw.isdigit() else None


def header(scope: Any, name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def one_header(scope: Any, name: bytes) -> bytes | None:
    """The only header of that (lower-case) name.

    Raises:
        InvalidParameterError: it is there more than once.
    """
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise InvalidParameterError(
            f"the header {name.decode()} is there {len(values)} times, so it is not clear which one counts; "
            "send it once"
        )
    return bytes(values[0]) if values else None


async def send_answer(
    send: Any, status: int, body: bytes, content_type: bytes, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

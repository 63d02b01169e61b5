"""Request bodies: read within their limit, inflated if compressed, and counted while their call is open."""

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any

from inferlane.errors import DecodeError, OverloadedError, PayloadTooLargeError, quoted
from producer_api.http.asgi import header
from producer_api.http.error_responses import InvalidParameterError, UnsupportedCodingError

READABLE_CODINGS = ("gzip", "deflate")
"""The codings of `Content-Encoding` that are read; `identity` means none."""

FEWER_ROWS = "send fewer rows a request, or use `inferlane batch submit`"
"""The remedy for a predict call over the limit; other calls have another one."""

_GZIP_NAMES = frozenset({b"gzip", b"x-gzip"})
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# A gzip body may have several members in a row. Nobody needs many, and each costs a copy of the rest of the body.
_MAX_MEMBERS = 16
# One byte of deflate may inflate to 1,032 bytes. A larger body may become megabytes, so a thread inflates it.
_IN_THREAD_BYTES = 4 * 1024


def coding_of(headers: Sequence[bytes]) -> bytes | None:
    """Return the coding that `Content-Encoding` names, or None if the body is not compressed.

    Raises:
        UnsupportedCodingError: it names several codings, or one that is not supported.
    """
    names = [name.strip().lower() for value in headers for name in value.split(b",")]
    codings = [name for name in names if name not in (b"", b"identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in (*_GZIP_NAMES, b"deflate"):
        raise UnsupportedCodingError(
            f"the body has the Content-Encoding {quoted(b', '.join(codings))}; send it as it is, or in one of: "
            f"{', '.join(READABLE_CODINGS)}"
        )
    return codings[0]


async def inflated(body: bytes, coding: bytes, limit_bytes: int, *, remedy: str = FEWER_ROWS) -> bytes:
    """Return the inflated body; `remedy` ends the message for a body over the limit.

    Raises:
        DecodeError: the body is incomplete, or not in that coding.
        PayloadTooLargeError: it inflates to more than the limit; no more than the limit was inflated.
    """
    if len(body) > _IN_THREAD_BYTES:
        return await asyncio.to_thread(inflate, body, coding, limit_bytes, remedy=remedy)
    return inflate(body, coding, limit_bytes, remedy=remedy)


def inflate(body: bytes, coding: bytes, limit_bytes: int, *, remedy: str = FEWER_ROWS) -> bytes:
    """Do the work of `inflated` on the calling thread.

    Raises:
        DecodeError: the body is incomplete, or not in that coding.
        PayloadTooLargeError: it inflates to more than the limit; no more than the limit was inflated.
    """
    is_gzip = coding in _GZIP_NAMES
    window_bits = _GZIP if is_gzip else _ZLIB if _has_zlib_head(body) else _RAW
    whole, rest = b"", body
    try:
        for _ in range(_MAX_MEMBERS if is_gzip else 1):
            inflater = zlib.decompressobj(window_bits)
            whole += inflater.decompress(rest, limit_bytes - len(whole) + 1)
            if len(whole) > limit_bytes:
                raise PayloadTooLargeError(
                    f"the body of {len(body)} bytes inflates to more than the limit of {limit_bytes}; {remedy}"
                )
            if not inflater.eof:
                raise DecodeError(f"the {coding.decode()} body ends before its end; send it whole")
            rest = inflater.unused_data
            if not rest:
                return whole
    except zlib.error as error:
        raise DecodeError(f"the body is not {coding.decode()}, which Content-Encoding says: {error}") from error
    raise DecodeError(f"{len(rest)} bytes follow the end of the {coding.decode()} body; send one body a call")


def _has_zlib_head(body: bytes) -> bool:
    """Whether the body has the header of RFC 1950; some clients send raw deflate without it."""
    return len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and (body[0] << 8 | body[1]) % 31 == 0


_RESERVATION = "inferlane.body_reservation"


class BodyMemory:
    """Bounds the memory that the bodies of all open calls take together. One event loop."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def has_room(self, size_bytes: int) -> bool:
        """Return whether `add` would reserve so much."""
        return self.held_bytes + size_bytes <= self._limit_bytes

    def release(self, size_bytes: int) -> None:
        """Release what was reserved."""
        self.held_bytes -= size_bytes

    def add(self, size_bytes: int) -> None:
        """Reserve memory for more of a body.

        Raises:
            OverloadedError: all open bodies together would be over the limit.
        """
        if not self.has_room(size_bytes):
            raise OverloadedError(
                f"the bodies of the calls under way have {self.held_bytes} bytes, the limit is {self._limit_bytes} "
                "(INFERLANE_MAX_PENDING_BYTES); send again later, or smaller requests"
            )
        self.held_bytes += size_bytes


class BodyReservation:
    """The share of one call: `add` as its body arrives, `release` once it is answered."""

    def __init__(self, total: BodyMemory) -> None:
        self._total = total
        self._bytes = 0

    def add(self, size_bytes: int) -> None:
        """Reserve memory for more of this call's body.

        Raises:
            OverloadedError: all open bodies together would be over the limit.
        """
        self._total.add(size_bytes)
        self._bytes += size_bytes

    def release(self) -> None:
        """Release all that this call reserved."""
        self._total.release(self._bytes)
        self._bytes = 0


def put_reservation(scope: Any, reservation: BodyReservation) -> None:
    """Attach the reservation to the scope of its call."""
    scope[_RESERVATION] = reservation


def reservation_in(scope: Any) -> BodyReservation | None:
    """The reservation of this call, or None."""
    reservation: BodyReservation | None = scope.get(_RESERVATION)
    return reservation


# Up to this multiple of the limit is read and dropped, so that the client finishes sending and reads the response.
_DISCARD_FACTOR = 32
_GONE = "the client disconnected before its body was complete"


async def read_body(scope: Any, receive: Any, limit_bytes: int, *, remedy: str = FEWER_ROWS) -> bytes:
    """Return the whole body, inflated if it is compressed. `remedy` ends the message for a body over the limit.

    Raises:
        DecodeError: the client disconnected in the middle, or the body is not in the coding that it names.
        PayloadTooLargeError: it is over the limit, compressed or inflated; up to 32 times the limit was read and
            dropped, but nothing of a client that asks first (`Expect: 100-continue`).
        UnsupportedCodingError: its coding is not supported.
        OverloadedError: the bodies of all open calls together are over their limit.
    """
    codings = [bytes(value) for key, value in scope["headers"] if key == b"content-encoding"]
    body = await _read_raw(scope, receive, limit_bytes, remedy)
    coding = coding_of(codings) if codings else None
    if coding is None:
        return body
    whole = await inflated(body, coding, limit_bytes, remedy=remedy)
    if (reservation := reservation_in(scope)) is not None:
        reservation.add(len(whole))
    return whole


async def _read_raw(scope: Any, receive: Any, limit_bytes: int, remedy: str) -> bytes:
    announced = content_length(scope) or 0
    if announced > limit_bytes and (header(scope, b"expect") or b"").lower() == b"100-continue":
        # Not asked for its body, the client reads the response without having sent it (RFC 9110, section 10.1.1).
        raise _too_large(announced, limit_bytes, remedy)
    message = await receive()
    if message["type"] != "http.request":
        raise DecodeError(_GONE)
    body: bytes = message.get("body", b"")
    reservation = reservation_in(scope)
    if reservation is not None:
        reservation.add(len(body))
    if not message.get("more_body") and len(body) <= limit_bytes:
        return body
    # One buffer: kept as pieces, a body that arrives byte by byte would take forty times its size.
    gathered = bytearray(body)
    received = len(body)
    while message.get("more_body") and message["type"] == "http.request" and received <= limit_bytes * _DISCARD_FACTOR:
        message = await receive()
        chunk = message.get("body", b"")
        received += len(chunk)
        if received <= limit_bytes:
            if reservation is not None:
                reservation.add(len(chunk))
            gathered += chunk
        else:
            gathered.clear()
    if message["type"] != "http.request":
        raise DecodeError(_GONE)
    if received > limit_bytes:
        raise _too_large(max(received, announced), limit_bytes, remedy)
    return bytes(gathered)


def _too_large(size_bytes: int, limit_bytes: int, remedy: str) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body has {size_bytes} bytes, the limit is {limit_bytes}; {remedy}")


def content_length(scope: Any) -> int | None:
    """Return the length that the client announced, or None."""
    raw = header(scope, b"content-length")
    return int(raw) if raw is not None and raw.isdigit() else None


def single_header(scope: Any, name: bytes) -> bytes | None:
    """Return the only header with this lower-case name, or None.

    Raises:
        InvalidParameterError: the header is repeated.
    """
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise InvalidParameterError(
            f"the header {name.decode()} is there {len(values)} times, so it is not clear which one counts; "
            "send it once"
        )
    return bytes(values[0]) if values else None

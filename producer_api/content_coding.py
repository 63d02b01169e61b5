"""Bodies that came compressed, inflated within the limit that holds for every body. Source: RFC 9110, section 8.4."""

import asyncio
import zlib
from collections.abc import Sequence

from inferlane.errors import DecodeError, PayloadTooLargeError
from inferlane.quoting import quoted
from producer_api.problems import UnsupportedCodingError

TAKEN = ("gzip", "deflate")
"""The codings of `Content-Encoding` that are read; `identity` means none."""

FEWER_ROWS = "send fewer rows a request, or use `inferlane batch submit`"
"""What helps whose predict call is over the limit; it helps no other call."""

_GZIP_NAMES = frozenset({b"gzip", b"x-gzip"})
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# A gzip body may be several members in a row; nobody needs many, and each costs a copy of what follows it.
_MAX_MEMBERS = 16
# Deflate gives up to 1,032 bytes for one. What may become more than a few megabytes is not inflated on the loop.
_IN_THREAD_BYTES = 4 * 1024


def coding_of(headers: Sequence[bytes]) -> bytes | None:
    """The one coding that `Content-Encoding` names, None for a body as it is.

    Raises:
        UnsupportedCodingError: several, or one that is not read here.
    """
    names = [name.strip().lower() for value in headers for name in value.split(b",")]
    codings = [name for name in names if name not in (b"", b"identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in (*_GZIP_NAMES, b"deflate"):
        raise UnsupportedCodingError(
            f"the body has the Content-Encoding {quoted(b', '.join(codings))}; send it as it is, or in one of: "
            f"{', '.join(TAKEN)}"
        )
    return codings[0]


async def inflated(body: bytes, coding: bytes, limit_bytes: int, *, remedy: str = FEWER_ROWS) -> bytes:
    """The body as it was before it was compressed; `remedy` is what helps who sends too much.

    Raises:
        DecodeError: it is not whole, or not in that coding.
        PayloadTooLargeError: it would be over the limit; no more than the limit was inflated.
    """
    if len(body) > _IN_THREAD_BYTES:
        return await asyncio.to_thread(inflate, body, coding, limit_bytes, remedy=remedy)
    return inflate(body, coding, limit_bytes, remedy=remedy)


def inflate(body: bytes, coding: bytes, limit_bytes: int, *, remedy: str = FEWER_ROWS) -> bytes:
    """As `inflated`, at once.

    Raises:
        DecodeError: it is not whole, or not in that coding.
        PayloadTooLargeError: it would be over the limit; no more than the limit was inflated.
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
    """Whether it begins as RFC 1950 says; some clients send what that wraps without it."""
    return len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and (body[0] << 8 | body[1]) % 31 == 0

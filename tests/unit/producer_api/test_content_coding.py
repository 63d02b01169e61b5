"""Compressed bodies are inflated within the body's limit, or refused with what is taken."""

import gzip
import zlib
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.errors import DecodeError, PayloadTooLargeError
from producer_api.http.error_responses import InvalidParameterError, UnsupportedCodingError, problem_of
from producer_api.http.request_body import coding_of, inflate, read_body, single_header

LIMIT = 100_000
BODY = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'


def raw_deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(body) + deflater.flush()


CODERS = [(b"gzip", gzip.compress), (b"x-gzip", gzip.compress), (b"deflate", zlib.compress), (b"deflate", raw_deflate)]


async def read(*chunks: bytes, coding: bytes | None = None, also: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    headers = [*([(b"content-encoding", coding)] if coding is not None else []), *also]
    return await read_body({"headers": headers}, receive, LIMIT)


@pytest.mark.parametrize(("coding", "compress"), CODERS)
async def test_a_compressed_body_is_read_as_what_it_was(coding: bytes, compress: Any) -> None:
    assert await read(compress(BODY), coding=coding) == BODY
    whole = compress(BODY)
    assert await read(*[whole[at : at + 1] for at in range(len(whole))], coding=coding.upper()) == BODY
    large = b"[" + b"1," * 20_000 + b"1]"
    assert await read(compress(large), coding=coding) == large


@pytest.mark.parametrize(("coding", "compress"), CODERS)
async def test_no_more_than_the_limit_is_inflated(coding: bytes, compress: Any) -> None:
    assert await read(compress(b"0" * LIMIT), coding=coding) == b"0" * LIMIT
    with pytest.raises(PayloadTooLargeError, match="limit of 100000"):
        await read(compress(b"0" * (LIMIT + 1)), coding=coding)
    with pytest.raises(PayloadTooLargeError):
        await read(compress(b"0" * 50_000_000), coding=coding)


@pytest.mark.parametrize(("coding", "compress"), CODERS)
@pytest.mark.parametrize("spoil", [lambda body: body[:-1], lambda _: b"", lambda body: body + b"x", lambda _: BODY])
async def test_a_body_that_is_not_what_it_says_is_refused(coding: bytes, compress: Any, spoil: Any) -> None:
    with pytest.raises(DecodeError):
        await read(spoil(compress(BODY)), coding=coding)


async def test_members_of_gzip_follow_each_other_and_not_without_end() -> None:
    assert await read(gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), coding=b"gzip") == BODY
    with pytest.raises(DecodeError):
        await read(gzip.compress(b"") * 1_000, coding=b"gzip")
    with pytest.raises(PayloadTooLargeError):
        await read(gzip.compress(b"0" * (LIMIT // 2)) * 3, coding=b"gzip")


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"deflate, gzip", b"\xff\x1b" * 5_000])
async def test_another_coding_is_refused_with_those_that_are_taken(coding: bytes) -> None:
    with pytest.raises(UnsupportedCodingError, match="one of: gzip, deflate") as caught:
        await read(BODY, coding=coding)
    response = problem_of(caught.value)
    assert (response.status, dict(response.headers)[b"accept-encoding"]) == (415, b"gzip, deflate")
    assert len(str(caught.value)) < 500


async def test_two_headers_name_two_codings() -> None:
    with pytest.raises(UnsupportedCodingError):
        await read(gzip.compress(BODY), coding=b"gzip", also=((b"content-encoding", b"gzip"),))
    assert await read(BODY, coding=b"identity", also=((b"content-encoding", b""),)) == BODY


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate"]))
def test_arbitrary_bytes_raise_only_our_errors(body: bytes, coding: bytes) -> None:
    assert coding_of([coding]) == coding
    with suppress(DecodeError, PayloadTooLargeError):
        inflate(body, coding, LIMIT)


def test_a_header_that_must_be_one_is_refused_twice() -> None:
    scope = {"headers": [(b"idempotency-key", b"a"), (b"other", b"1"), (b"idempotency-key", b"a")]}
    with pytest.raises(InvalidParameterError, match="2 times"):
        single_header(scope, b"idempotency-key")
    assert single_header(scope, b"other") == b"1"
    assert single_header(scope, b"absent") is None


@pytest.mark.parametrize(("size_bytes", "is_asked_for"), [(LIMIT, True), (LIMIT + 1, False)])
async def test_no_body_over_the_limit_is_asked_for(size_bytes: int, is_asked_for: bool) -> None:
    """The first `receive` makes uvicorn send `100 Continue`; the client would send gigabytes then."""
    headers = [(b"content-length", b"%d" % size_bytes), (b"expect", b"100-Continue")]
    asked = []

    async def receive() -> dict[str, Any]:
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    with nullcontext() if is_asked_for else pytest.raises(PayloadTooLargeError, match=f"{size_bytes} bytes"):
        await read_body({"headers": headers}, receive, LIMIT)
    assert asked == [True] * is_asked_for

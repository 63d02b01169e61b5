"""Whatever the bytes are: what comes out is what went in, or an error, and never more than the limit."""

import gzip
import struct
import zlib
from collections.abc import Callable

import cramjam
import pytest
from aiokafka.codec import snappy_encode
from hypothesis import given
from hypothesis import strategies as st

from inferlane.errors import DecodeError
from inferlane.runtime.kafka.batch_decoder import (
    DecompressionLimitError,
    decompress_gzip,
    decompress_lz4,
    decompress_snappy,
    decompress_zstd,
)

LIMIT = 100_000
ERRORS = (DecodeError, cramjam.DecompressionError, zlib.error, struct.error)
CODECS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]] = {
    "gzip": (gzip.compress, decompress_gzip),
    "snappy": (lambda raw: bytes(cramjam.snappy.compress_raw(raw)), decompress_snappy),
    "snappy-java": (snappy_encode, decompress_snappy),
    "lz4": (lambda raw: bytes(cramjam.lz4.compress(raw)), decompress_lz4),
    "zstd": (lambda raw: bytes(cramjam.zstd.compress(raw)), decompress_zstd),
}
codecs = pytest.mark.parametrize(("deflate", "inflate"), CODECS.values(), ids=CODECS)


@codecs
@given(raw=st.binary(max_size=2_000), times=st.integers(1, 40))
def test_what_went_in_comes_out(deflate: Callable, inflate: Callable, raw: bytes, times: int) -> None:
    assert inflate(deflate(raw * times), LIMIT) == raw * times


@codecs
def test_the_limit_itself_is_within_it(deflate: Callable, inflate: Callable) -> None:
    assert len(inflate(deflate(bytes(LIMIT)), LIMIT)) == LIMIT
    with pytest.raises(DecompressionLimitError, match=str(LIMIT)):
        inflate(deflate(bytes(LIMIT + 1)), LIMIT)


@codecs
def test_a_bomb_is_refused_before_it_takes_the_memory(deflate: Callable, inflate: Callable) -> None:
    with pytest.raises(DecompressionLimitError):
        inflate(deflate(bytes(1000 * LIMIT)), LIMIT)


@codecs
@given(raw=st.binary(min_size=1, max_size=500), cut=st.integers(1, 500))
def test_what_ends_early_is_an_error_or_a_part(deflate: Callable, inflate: Callable, raw: bytes, cut: int) -> None:
    try:
        found = inflate(deflate(raw)[:-cut], LIMIT)
    except ERRORS:
        return
    assert raw.startswith(found)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_snappy_that_ends_within_the_size_of_a_block_is_refused(left: int) -> None:
    whole = snappy_encode(b"x" * 1_000)
    with pytest.raises(DecodeError, match="ends early"):
        decompress_snappy(whole + bytes(left), 1_000_000)


@pytest.mark.parametrize("inflate", [decompress_gzip, decompress_snappy, decompress_lz4, decompress_zstd])
@given(raw=st.binary(max_size=300))
def test_any_bytes_are_an_error_or_within_the_limit(inflate: Callable, raw: bytes) -> None:
    try:
        found = inflate(raw, LIMIT)
    except ERRORS:
        return
    assert len(found) <= LIMIT


def test_a_batch_of_countless_empty_parts_is_refused() -> None:
    """Guards the bounds on members and blocks: without them such a batch holds the event loop for seconds."""
    with pytest.raises(DecodeError, match="members"):
        decompress_gzip(gzip.compress(b"") * 1_000, LIMIT)
    empty = b"\0\0\0\1\0"
    with pytest.raises(DecodeError, match="blocks"):
        decompress_snappy(snappy_encode(b"")[:16] + empty * 100_000, LIMIT)


def test_gzip_of_several_members_is_read_whole() -> None:
    assert decompress_gzip(gzip.compress(b"one ") + gzip.compress(b"two"), LIMIT) == b"one two"

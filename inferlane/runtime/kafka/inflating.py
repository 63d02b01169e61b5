"""Decompressing the records of a batch within a limit: a few bytes must not become more than memory holds."""

import struct
import zlib
from collections.abc import Callable
from types import ModuleType

import cramjam
import numpy as np

from inferlane.errors import DecodeError

# A buffer of so many times the compressed size is enough for ordinary records; the whole limit is asked for only when
# it is not. Larger asks the system for memory that most batches never touch, smaller decompresses more batches twice.
_USUAL_RATIO = 32
_SMALLEST_BUFFER_BYTES = 64 * 1024
# Kafka's own clients write one gzip member a batch, and snappy blocks of 32 KiB. Each costs a step of Python, so that
# a batch of empty ones would hold the event loop for seconds.
_MAX_GZIP_MEMBERS = 16
_SMALLEST_SNAPPY_BLOCK_BYTES = 1024
_GZIP_FRAME = 31
# The framing of snappy-java (xerial): magic, version, compatible version; then blocks with their length in front.
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_FULL_BUFFER = "failed to write whole buffer"


class InflatesTooMuchError(DecodeError):
    """Compressed records that would take more memory than the limit. Remedy: send smaller batches."""


def _too_much(limit_bytes: int) -> InflatesTooMuchError:
    return InflatesTooMuchError(f"its records are larger than {limit_bytes} bytes when they are decompressed")


def inflate_gzip(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress gzip.

    Raises:
        InflatesTooMuchError: the result would be larger than `limit_bytes`.
        DecodeError: it is not gzip, or not all of it.
    """
    parts: list[bytes] = []
    left = bytes(raw)
    room_bytes = limit_bytes
    for _ in range(_MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=_GZIP_FRAME)
        # One byte more than there is room for tells whether there is more. With a limit of 0 zlib has none.
        parts.append(member.decompress(left, room_bytes + 1))
        room_bytes -= len(parts[-1])
        if room_bytes < 0:
            raise _too_much(limit_bytes)
        if not member.eof:
            raise DecodeError("its gzip data ends early")
        left = member.unused_data.lstrip(b"\0")
        if not left:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise DecodeError(f"its gzip data has more than {_MAX_GZIP_MEMBERS} members")


def inflate_snappy(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress snappy, raw or in the framing of snappy-java.

    Raises:
        InflatesTooMuchError: the result would be larger than `limit_bytes`.
        DecodeError: it is not snappy, or not all of it.
    """
    data = memoryview(raw)
    if bytes(data[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return _snappy_block(data, limit_bytes, limit_bytes)
    parts: list[bytes] = []
    room_bytes, start = limit_bytes, _XERIAL_HEADER_BYTES
    while start < len(data):
        (size_bytes,) = struct.unpack_from(">i", data, start)
        start += 4
        if not 0 < size_bytes <= len(data) - start:
            raise DecodeError("a block of its snappy data has a length that does not fit")
        parts.append(_snappy_block(data[start : start + size_bytes], room_bytes, limit_bytes))
        room_bytes -= len(parts[-1])
        start += size_bytes
        if len(parts) * _SMALLEST_SNAPPY_BLOCK_BYTES > limit_bytes + _SMALLEST_BUFFER_BYTES:
            raise DecodeError(f"its snappy data has more than {len(parts) - 1} blocks")
    return b"".join(parts)


def _snappy_block(block: memoryview, room_bytes: int, limit_bytes: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > room_bytes:
        raise _too_much(limit_bytes)
    return bytes(cramjam.snappy.decompress_raw(block))


def inflate_lz4(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress an LZ4 frame.

    Raises:
        InflatesTooMuchError: the result would be larger than `limit_bytes`.
    """
    return _inflate_into(cramjam.lz4, raw, limit_bytes)


def inflate_zstd(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress Zstandard.

    Raises:
        InflatesTooMuchError: the result would be larger than `limit_bytes`.
    """
    return _inflate_into(cramjam.zstd, raw, limit_bytes)


def _inflate_into(codec: ModuleType, raw: bytes | memoryview, limit_bytes: int) -> bytes:
    usual_bytes = min(limit_bytes, max(_SMALLEST_BUFFER_BYTES, _USUAL_RATIO * len(raw)))
    for buffer_bytes in (usual_bytes, limit_bytes):
        # Memory that is not touched costs nothing, so that a large limit is not paid for by a small batch.
        buffer = np.empty(buffer_bytes, np.uint8)
        try:
            written_bytes = codec.decompress_into(raw, buffer)
        except cramjam.DecompressionError as error:
            if _FULL_BUFFER not in str(error):
                raise
        else:
            return buffer[:written_bytes].tobytes()
    raise _too_much(limit_bytes)


INFLATE: dict[str, Callable[[bytes | memoryview, int], bytes]] = {
    "gzip_decode": inflate_gzip,
    "snappy_decode": inflate_snappy,
    "lz4_decode": inflate_lz4,
    "zstd_decode": inflate_zstd,
}
"""By the name that aiokafka gives to its own, which have no limit."""

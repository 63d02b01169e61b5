"""Decode the batches of a fetch, whatever their bytes are, and decompress them within a limit.

A few compressed bytes must not expand to more than the memory holds.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any, SupportsIndex

import cramjam
import numpy as np
import structlog
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatch, _LegacyRecordBatchPy

from inferlane.errors import DecodeError
from inferlane.runtime.kafka.batch_head import FORMAT_2

log = structlog.get_logger(__name__)


class LenientBatch:
    """A batch that is read leniently from the first record on that aiokafka cannot decode."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """The next record of a control batch, which aiokafka does not iterate."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        decoded = 0
        try:
            for record in self._batch:
                yield record
                decoded += 1
        except UnicodeDecodeError as error:
            log.warning("header_name_not_utf8", base_offset=self._batch.base_offset, name=repr(error.object))
            yield from islice(_PythonBatch(self._raw), decoded, None)


class _PythonBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's batch in Python, which decodes nothing as text but the names of headers."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _LenientBytes(self._buffer)


class _LenientBytes(bytearray):
    """Bytes that always decode to text."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """Decode; bytes that are no text become escapes."""
        return super().decode(encoding, errors)


# Offset and length, which every format has in front; then, of format 2, the leader's epoch, the magic byte, the CRC,
# attributes, the last offset's distance, the first and the last timestamp, three fields of the producer, and a count.
_OVERHEAD = struct.Struct(">qi")
_HEADER_V2 = struct.Struct(">qiibIhiqqqhii")
_MAGIC_AT = 16
_SMALLEST_V1_BYTES = _OVERHEAD.size + _LegacyRecordBatchPy.RECORD_OVERHEAD_V0


class Frames:
    """What aiokafka's `MemoryRecords` is: `has_next`, `next_batch`, `size_in_bytes`.

    A broker may end a fetch in the middle of a batch, which is left for the next one. The first batch comes whole, so
    what is not whole there is a batch with a length that is wrong.
    """

    def __init__(self, raw: bytes | memoryview | None) -> None:
        self.raw = memoryview(raw or b"")
        self._start = 0

    def size_in_bytes(self) -> int:
        """Return what the fetch holds."""
        return len(self.raw)

    def has_next(self) -> bool:
        """Return whether there is another batch."""
        return self._end() is not None or (self._start == 0 and len(self.raw) > 0)

    def next_batch(self) -> "Frame":
        """Return the next batch; call it only while there is one."""
        start, end = self._start, self._end()
        self._start = len(self.raw) if end is None else end
        following = self._base_offset() if self._end() is not None else None
        return Frame(self.raw[start : self._start], is_whole=end is not None, following=following)

    def _end(self) -> int | None:
        """Return where the batch that begins here ends; None if it is not all there."""
        if len(self.raw) - self._start < _OVERHEAD.size:
            return None
        _, length_bytes = _OVERHEAD.unpack_from(self.raw, self._start)
        end = self._start + _OVERHEAD.size + length_bytes
        return end if length_bytes >= 0 and end <= len(self.raw) else None

    def _base_offset(self) -> int:
        base_offset: int = _OVERHEAD.unpack_from(self.raw, self._start)[0]
        return base_offset


class Frame:
    """One batch. `following` is the first offset of the batch behind it, if that is known."""

    def __init__(self, raw: memoryview, *, is_whole: bool, following: int | None) -> None:
        self.raw = raw
        self._is_whole = is_whole
        self._following = following
        self._format = raw[_MAGIC_AT] if len(raw) > _MAGIC_AT else None
        self._has_header = self._format == FORMAT_2 and len(raw) >= _HEADER_V2.size
        self._is_checked = False

    @property
    def first_timestamp_ms(self) -> int:
        """The time of its first record, as it says; -1 if it does not."""
        return int(_HEADER_V2.unpack_from(self.raw)[7]) if self._has_header else -1

    def open(self, *, check_crc: bool) -> Any:
        """Return the batch, to be iterated; nothing is decompressed before that.

        Raises:
            DecodeError: it is not whole, or not what was written.
        """
        if not self._is_whole:
            raise DecodeError(f"the batch ends early, after {len(self.raw)} bytes")
        if self._format is not None and self._format > FORMAT_2:
            raise DecodeError(f"the batch is of format {self._format}, which is not known")
        if len(self.raw) < (_HEADER_V2.size if self._format == FORMAT_2 else _SMALLEST_V1_BYTES):
            raise DecodeError(f"the batch has {len(self.raw)} bytes, which is less than its header")
        batch = DefaultRecordBatch(self.raw) if self._has_header else LegacyRecordBatch(self.raw, self._format)
        if check_crc and not batch.validate_crc():
            raise DecodeError("the batch is not what was written: its CRC is another")
        self._is_checked = True
        return LenientBatch(batch, self.raw) if self._has_header else batch

    def offsets(self, position: int) -> tuple[int, int]:
        """Return the first and the last offset of a batch that could not be read, at `position` or behind it.

        The header of a damaged batch counts only if it is consistent, also with the next batch: a
        wrong end would skip records behind it, or lie behind the end of the partition.
        """
        first = last = position
        if self._has_header:
            header = _HEADER_V2.unpack_from(self.raw)
            base_offset, last_delta, count = header[0], header[6], header[12]
            if self._is_checked or (self._is_whole and last_delta + 1 == count):
                first = max(first, base_offset)
                last = max(last, base_offset + last_delta)
        if self._following is not None and self._following > position:
            last = min(last, self._following - 1)
        return min(first, last), last


# A buffer of this many times the compressed size is enough for ordinary records; otherwise the limit is allocated.
# Larger allocates memory that most batches never touch, smaller decompresses more batches twice.
_USUAL_RATIO = 32
_SMALLEST_BUFFER_BYTES = 64 * 1024
# Kafka's own clients write one gzip member a batch, and snappy blocks of 32 KiB. Each member or block costs a step of
# Python, so a batch of empty ones would block the event loop for seconds.
_MAX_GZIP_MEMBERS = 16
_SMALLEST_SNAPPY_BLOCK_BYTES = 1024
_GZIP_FRAME = 31
# The framing of snappy-java (xerial): magic, version, compatible version; then blocks with their length in front.
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_BLOCK_SIZE = struct.Struct(">i")
_FULL_BUFFER = "failed to write whole buffer"


class DecompressionLimitError(DecodeError):
    """Compressed records that would take more memory than the limit. Remedy: send smaller batches."""


def _too_much(limit_bytes: int) -> DecompressionLimitError:
    return DecompressionLimitError(f"its records are larger than {limit_bytes} bytes when they are decompressed")


def decompress_gzip(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress gzip.

    Raises:
        DecompressionLimitError: the result would be larger than `limit_bytes`.
        DecodeError: it is not gzip, or not all of it.
    """
    parts: list[bytes] = []
    left = bytes(raw)
    room_bytes = limit_bytes
    for _ in range(_MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=_GZIP_FRAME)
        # One byte above the limit shows whether there is more. For zlib a limit of 0 means no limit.
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


def decompress_snappy(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress snappy, raw or in the framing of snappy-java.

    Raises:
        DecompressionLimitError: the result would be larger than `limit_bytes`.
        DecodeError: it is not snappy, or not all of it.
    """
    data = memoryview(raw)
    if bytes(data[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return _snappy_block(data, limit_bytes, limit_bytes)
    parts: list[bytes] = []
    room_bytes, start = limit_bytes, _XERIAL_HEADER_BYTES
    while start < len(data):
        if len(data) - start < _BLOCK_SIZE.size:
            raise DecodeError("its snappy data ends early")
        (size_bytes,) = _BLOCK_SIZE.unpack_from(data, start)
        start += _BLOCK_SIZE.size
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


def decompress_lz4(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress an LZ4 frame.

    Raises:
        DecompressionLimitError: the result would be larger than `limit_bytes`.
    """
    return _decompress_into(cramjam.lz4, raw, limit_bytes)


def decompress_zstd(raw: bytes | memoryview, limit_bytes: int) -> bytes:
    """Decompress Zstandard.

    Raises:
        DecompressionLimitError: the result would be larger than `limit_bytes`.
    """
    return _decompress_into(cramjam.zstd, raw, limit_bytes)


def _decompress_into(codec: ModuleType, raw: bytes | memoryview, limit_bytes: int) -> bytes:
    usual_bytes = min(limit_bytes, max(_SMALLEST_BUFFER_BYTES, _USUAL_RATIO * len(raw)))
    for buffer_bytes in (usual_bytes, limit_bytes):
        # Untouched memory costs nothing, so a small batch does not pay for a large limit.
        buffer = np.empty(buffer_bytes, np.uint8)
        try:
            written_bytes = codec.decompress_into(raw, buffer)
        except cramjam.DecompressionError as error:
            if _FULL_BUFFER not in str(error):
                raise
        else:
            return buffer[:written_bytes].tobytes()
    raise _too_much(limit_bytes)


DECOMPRESSORS: dict[str, Callable[[bytes | memoryview, int], bytes]] = {
    "gzip_decode": decompress_gzip,
    "snappy_decode": decompress_snappy,
    "lz4_decode": decompress_lz4,
    "zstd_decode": decompress_zstd,
}
"""By the name that aiokafka gives to its own, which have no limit."""

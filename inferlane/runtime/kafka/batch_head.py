"""What the head of a record batch says, without decoding the batch."""

import struct
from typing import NamedTuple

# Of a batch of format 2: base offset, length of what follows and, behind the leader's epoch, the magic byte; the CRC
# and, behind the attributes, the distance of the last offset.
_HEAD = struct.Struct(">qi4xb4s2xi")
_BEHIND_LENGTH = 12
FORMAT_2 = 2


class BatchHead(NamedTuple):
    """Offsets of the first record and behind the last one, size of the whole batch and its CRC; none is checked."""

    base_offset: int
    end_offset: int
    size_bytes: int
    crc: bytes

    @classmethod
    def of(cls, raw: "bytes | memoryview") -> "BatchHead | None":
        """Return what the bytes begin with; None if that is no head of a batch of format 2."""
        if len(raw) < _HEAD.size:
            return None
        base_offset, length_bytes, magic, crc, last_delta = _HEAD.unpack_from(raw)
        if magic != FORMAT_2:
            return None
        return cls(base_offset, base_offset + last_delta + 1, length_bytes + _BEHIND_LENGTH, crc)

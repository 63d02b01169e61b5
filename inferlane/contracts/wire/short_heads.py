"""The short form of the JSON part of a response with binary tensors alone, for where many results are kept.

The text says of each output what two dozen bytes say, and names model and version, which the result has as well.
"""

from functools import lru_cache

import msgspec

from inferlane.contracts.wire.v2_fields import DataSize, OutputEntry, ResponseHead, Size
from inferlane.errors import UNDECODABLE

# As in `v2.py`: JSON parts repeat, and only small ones are kept.
_CACHED_HEADS = 1024
_MAX_HEAD_BYTES = 1024
# How it ends where the last output is binary and the request had no `id`, which would be another one each time.
_END = b"}}]}"


class _ShortOutput(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    shape: list[Size]
    datatype: str
    size_bytes: Size


_encode_short = msgspec.msgpack.Encoder().encode
_decode_short = msgspec.msgpack.Decoder(list[_ShortOutput]).decode
_encode_head = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(ResponseHead).decode


def short_head(content: bytes, json_length: int | None, model: str, version: str) -> bytes | None:
    """Return the short form of a response's JSON part; None if `whole_head` would not give the same bytes again."""
    if json_length is None or json_length > min(len(content), _MAX_HEAD_BYTES):
        return None
    if not content.endswith(_END, 0, json_length):
        return None
    return _short_head(content[:json_length], model, version)


@lru_cache(maxsize=_CACHED_HEADS)
def _short_head(head: bytes, model: str, version: str) -> bytes | None:
    try:
        outputs = _decode_head(head).outputs
        short = _encode_short(
            [_ShortOutput(one.name, one.shape, one.datatype, one.parameters.binary_data_size or 0) for one in outputs]
        )
        return short if whole_head(short, model, version) == head else None
    except UNDECODABLE:
        return None


@lru_cache(maxsize=_CACHED_HEADS)
def whole_head(short: bytes, model: str, version: str) -> bytes:
    """Return the JSON part of a response of this version from its short form.

    Raises:
        msgspec.DecodeError: the bytes are no short form.
    """
    entries = [OutputEntry(one.name, one.shape, one.datatype, DataSize(one.size_bytes)) for one in _decode_short(short)]
    return _encode_head(ResponseHead(model, version, entries))

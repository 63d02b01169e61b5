"""Encode and decode the requests that every batch needs by functions made once from aiokafka's schemas.

aiokafka walks through the schema of a request for each request: a call and a slice for each integer. Here neighbouring
fields of fixed size are one `struct`, and an array is read in a loop of them. The bytes and the values are the same
(`test_wire_codec.py` compares every version); a class with a field of another kind is left as it is.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

from aiokafka.protocol import api, fetch, produce, types
from aiokafka.protocol.struct import Struct

Read = Callable[[bytes, int], tuple[Any, int]]
"""Returns the value at that position of the bytes, and the position behind it."""

Write = Callable[[Any, list[bytes]], None]
"""Appends the bytes of a value."""

_FIXED = {types.Int8: "b", types.Int16: "h", types.Int32: "i", types.UInt32: "I", types.Int64: "q"}
_Raw = TypeVar("_Raw", bytes, memoryview)
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")


def hot_structs() -> list[type[Struct]]:
    """The classes of aiokafka that each batch needs: fetch and produce, in every version, and their headers."""
    versions = (
        found
        for module in (fetch, produce)
        for name, found in vars(module).items()
        if "_v" in name and isinstance(found, type) and issubclass(found, Struct)
    )
    return [api.RequestHeader_v1, api.ResponseHeader_v0, *versions]


def speed_up_codec(structs: Iterable[type[Struct]]) -> None:
    """Replace `encode` and `decode` of these classes; calling it again changes nothing."""
    for cls in structs:
        if "decode" in vars(cls):
            continue
        codec = compile_schema(cls.SCHEMA)
        if codec is not None:
            read, write = codec
            cls.encode = _encoder(cls.SCHEMA.names, write)
            cls.decode = classmethod(partial(_decode, names=cls.SCHEMA.names, read=read))


def _encoder(names: Sequence[str], write: Write) -> Callable[[Any], bytes]:
    def encode(request: Any) -> bytes:
        held = request.__dict__
        parts: list[bytes] = []
        try:
            write([held[name] for name in names], parts)
        except struct.error as error:
            raise ValueError(f"{type(request).__name__} cannot be encoded: {error}") from error
        return b"".join(parts)

    return encode


def _decode(cls: Any, data: BytesIO | bytes, *, names: Sequence[str], read: Read) -> Any:
    raw, start = (data, 0) if isinstance(data, bytes) else (data.getvalue(), data.tell())
    try:
        values, end = read(raw, start)
    except struct.error as error:
        raise ValueError(f"{cls.__name__} cannot be decoded: {error}") from error
    if not isinstance(data, bytes):
        data.seek(end)
    found = cls.__new__(cls)
    found.__dict__.update(zip(names, values, strict=True))
    return found


def compile_schema(schema: Any) -> tuple[Read, Write] | None:
    """Return the functions for values of this schema; None if it has a field of a kind that is not known here."""
    try:
        return _reader(schema), _writer(schema)
    except KeyError:
        return None


def _runs(schema: Any) -> list[tuple[int, int, str]]:
    """Return the fields in order as `(first, end, format)`; a field without a fixed size has an empty format."""
    runs: list[tuple[int, int, str]] = []
    for number, field in enumerate(schema.fields):
        code = _FIXED.get(field, "") if isinstance(field, type) else ""
        if code and runs and runs[-1][2]:
            first, _, before = runs[-1]
            runs[-1] = (first, number + 1, before + code)
        else:
            runs.append((number, number + 1, code))
    return runs


def _reader(kind: Any) -> Read:
    if isinstance(kind, type) and kind in _FIXED:
        return partial(_read_fixed, struct.Struct(f">{_FIXED[kind]}"))
    if type(kind) is types.Schema:
        steps: list[tuple[Any, int]] = []
        for first, _, codes in _runs(kind):
            fixed = struct.Struct(f">{codes}")
            steps.append((fixed.unpack_from, fixed.size) if codes else (_reader(kind.fields[first]), 0))
        return partial(_read_schema, steps)
    if type(kind) is types.Array:
        return partial(_read_array, _reader(kind.array_of))
    return {types.String: _read_string, types.Bytes: _read_bytes}[kind if isinstance(kind, type) else type(kind)]


def _read_fixed(fixed: struct.Struct, raw: bytes, start: int) -> tuple[Any, int]:
    return fixed.unpack_from(raw, start)[0], start + fixed.size


def _read_schema(steps: Sequence[tuple[Any, int]], raw: bytes, start: int) -> tuple[tuple[Any, ...], int]:
    values: list[Any] = []
    for read, size in steps:
        if size:
            values += read(raw, start)
            start += size
        else:
            value, start = read(raw, start)
            values.append(value)
    return tuple(values), start


def _read_array(read: Read, raw: bytes, start: int) -> tuple[list[Any] | None, int]:
    (count,) = _INT32.unpack_from(raw, start)
    start += _INT32.size
    if count == -1:
        return None, start
    values = []
    for _ in range(count):
        value, start = read(raw, start)
        values.append(value)
    return values, start


def _read_string(raw: bytes, start: int) -> tuple[str | None, int]:
    (length,) = _INT16.unpack_from(raw, start)
    value, end = _slice(raw, start + _INT16.size, length)
    return None if value is None else value.decode(), end


def _read_bytes(raw: bytes, start: int) -> tuple[memoryview | None, int]:
    """Return a view: the batches of a fetch are megabytes, and are copied record by record when they are read."""
    (length,) = _INT32.unpack_from(raw, start)
    return _slice(memoryview(raw), start + _INT32.size, length)


def _slice(raw: _Raw, start: int, length: int) -> tuple[_Raw | None, int]:
    if length < 0:
        return None, start
    end = start + length
    if end > len(raw):
        raise ValueError(f"a field of {length} bytes ends after the {len(raw)} bytes of the response")
    return raw[start:end], end


def _writer(kind: Any) -> Write:
    if isinstance(kind, type) and kind in _FIXED:
        return partial(_write_fixed, struct.Struct(f">{_FIXED[kind]}").pack)
    if type(kind) is types.Schema:
        steps: list[tuple[Any, int, int]] = []
        for first, end, codes in _runs(kind):
            steps.append(
                (struct.Struct(f">{codes}").pack, first, end) if codes else (_writer(kind.fields[first]), first, 0)
            )
        return partial(_write_schema, steps, len(kind.fields))
    if type(kind) is types.Array:
        return partial(_write_array, _writer(kind.array_of))
    return {types.String: _write_string, types.Bytes: _write_bytes}[kind if isinstance(kind, type) else type(kind)]


def _write_fixed(pack: Callable[[Any], bytes], value: Any, parts: list[bytes]) -> None:
    parts.append(pack(value))


def _write_schema(steps: Sequence[tuple[Any, int, int]], count: int, item: Sequence[Any], parts: list[bytes]) -> None:
    if len(item) != count:
        raise ValueError("Item field count does not match Schema")
    for write, first, end in steps:
        if end:
            parts.append(write(*item[first:end]))
        else:
            write(item[first], parts)


def _write_array(write: Write, items: Sequence[Any] | None, parts: list[bytes]) -> None:
    if items is None:
        parts.append(_INT32.pack(-1))
        return
    parts.append(_INT32.pack(len(items)))
    for item in items:
        write(item, parts)


def _write_string(value: str | None, parts: list[bytes]) -> None:
    raw = None if value is None else str(value).encode()
    parts.append(_INT16.pack(-1 if raw is None else len(raw)))
    if raw:
        parts.append(raw)


def _write_bytes(value: Any, parts: list[bytes]) -> None:
    parts.append(_INT32.pack(-1 if value is None else len(value)))
    if value is not None:
        parts.append(value)

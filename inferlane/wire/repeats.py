"""Fields of a JSON object that are there twice: readers differ in which one they take, so neither is."""

import re
from typing import Any

import msgspec

from inferlane.errors import DecodeError

# A string that a colon follows is a key, and nothing else is one. Each string is passed over whole.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"(\s*+:)?+', re.DOTALL)


def refuse_repeats(text: bytes, read: msgspec.Struct) -> None:
    """Return if each field of `text` was there once: `read` is what was made of it, with no field left out.

    The fields of `read` and of the structs in it are `UNSET` where they were absent.

    Raises:
        DecodeError: a field is there twice.
    """
    quotes = text.count(b'"')
    if quotes == 2:  # noqa: PLR2004 - a single key, and no string beside it
        return
    keys, strings = _count(read)
    if quotes == 2 * (keys + strings):
        return
    # Quotes within strings, or a repeated field.
    if sum(found[1] is not None for found in _STRING.finditer(text)) != keys:
        raise DecodeError("the body has a field twice, or an object among its numbers; send each field once")


def _count(value: Any) -> tuple[int, int]:
    """The keys and the strings of what was read."""
    if isinstance(value, str):
        return 0, 1
    if isinstance(value, msgspec.Struct):
        present = [held for name in value.__struct_fields__ if (held := getattr(value, name)) is not msgspec.UNSET]
        inner = [_count(held) for held in present]
        return len(present) + sum(keys for keys, _ in inner), sum(strings for _, strings in inner)
    if isinstance(value, list):
        inner = [_count(held) for held in value]
        return sum(keys for keys, _ in inner), sum(strings for _, strings in inner)
    return 0, 0

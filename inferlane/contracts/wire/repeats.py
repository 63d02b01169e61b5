"""Fields of a JSON object that are there twice: readers differ in which one they take, so neither is."""

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from inferlane.errors import DecodeError

# A string that a colon follows is a key, and nothing else is one. Each string is passed over whole.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"(\s*+:)?+', re.DOTALL)


def refuse_repeats(text: bytes, read: msgspec.Struct | dict[str, Any]) -> None:
    """Return if each field of `text` was there once: `read` is what was made of it, with no field left out.

    The fields of the structs in it are `UNSET` where they were absent. What it keeps as `Raw` is not
    looked into: whoever reads that counts its fields.

    Raises:
        DecodeError: a field is there twice.
    """
    quotes = text.count(b'"')
    if quotes == 2:  # noqa: PLR2004 - a single key, and no string beside it
        return
    seen = _Seen()
    seen.count(read)
    if quotes == 2 * (seen.keys + seen.strings) + sum(raw.count(b'"') for raw in seen.raws):
        return
    # Quotes within strings, or a repeated field.
    if _keys_of(text) != seen.keys + sum(map(_keys_of, seen.raws)):
        raise DecodeError("the body has a field twice; send each once")


def _keys_of(text: bytes) -> int:
    return sum(found[1] is not None for found in _STRING.finditer(text))


@dataclass(slots=True)
class _Seen:
    """The keys, the strings and the parts left as text of what was read."""

    keys: int = 0
    strings: int = 0
    raws: list[bytes] = field(default_factory=list)

    def count(self, value: Any) -> None:
        if isinstance(value, str):
            self.strings += 1
        elif isinstance(value, msgspec.Raw):
            self.raws.append(bytes(value))
        elif isinstance(value, msgspec.Struct):
            for name in value.__struct_fields__:
                held = getattr(value, name)
                if held is not msgspec.UNSET:
                    self.keys += 1
                    self.count(held)
        elif isinstance(value, dict):
            self.keys += len(value)
            for held in value.values():
                self.count(held)
        elif isinstance(value, list):
            for held in value:
                self.count(held)

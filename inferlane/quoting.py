"""What a message may repeat of what a client or a record said: a bounded part, always printable.

An error goes into answers, result headers, dead letters and logs. Whoever sends a name of 7 MB must not get it back in
each of them, and half a surrogate pair must not make a message that nobody can encode.
"""

import re

# Enough to recognise a value by; a longer part only moves the remedy out of sight.
_QUOTED_CHARS = 60
# A whole number with more digits is not converted: that takes time that grows with their square.
_EXACT_BITS = 128


def quoted(value: object, *, limit_chars: int = _QUOTED_CHARS) -> str:
    """`value` as JSON calls it, in at most about `limit_chars` characters, with its length where it was cut."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted_text(value, len(value), "characters", limit_chars)
    if isinstance(value, bytes | bytearray | memoryview):
        head = bytes(value[:limit_chars]).decode(errors="backslashreplace")
        return _quoted_text(head, len(value), "bytes", limit_chars)
    if isinstance(value, int) and value.bit_length() > _EXACT_BITS:
        return f"a whole number of about {value.bit_length() * 30103 // 100_000 + 1} digits"
    if isinstance(value, int | float):
        return repr(value)
    return _kind_of(value)


# What steers a terminal (escape sequences, C1 controls), what turns the direction of the text around it or is not seen
# at all, and halves of surrogate pairs. Tabs and line ends stay. Source: Unicode TR 36, section 3.6.
_STEERS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff]"
)


def printable(text: str) -> str:
    """The text with whatever would steer a terminal written out in the manner of Python, fit to be shown to people."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clipped(text: str, *, limit_chars: int = 300) -> str:
    """Text of others (a library's message, a path) with its end left out past `limit_chars`, safe to encode."""
    kept = text[:limit_chars].encode(errors="backslashreplace").decode()
    return kept if len(text) <= limit_chars else f"{kept}… ({len(text)} characters)"


def _quoted_text(head: str, length: int, unit: str, limit_chars: int) -> str:
    kept = repr(head[:limit_chars])
    # An escape is up to ten characters for one.
    kept = kept if len(kept) <= 2 * limit_chars else kept[: 2 * limit_chars] + "'"
    return kept if length <= limit_chars else f"{kept}… ({length} {unit})"


def _kind_of(value: object) -> str:
    if hasattr(value, "keys"):
        return "an object"
    return "a list" if hasattr(value, "__len__") else clipped(type(value).__name__)

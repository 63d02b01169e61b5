"""The `Prefer` header of a predict call: how long the client waits, and whether it waits at all. Source: RFC 7240."""

import re
from dataclasses import dataclass

# A preference is a name without case, with a value or without one, up to the next comma. A value in quotes may hold a
# comma or look like a preference, and is none; parameters after a semicolon change nothing here.
_PREFERENCE = re.compile(rb"""(?:[^,"]|"(?:[^"\\]|\\.)*+")++""", re.DOTALL)
_WAIT = re.compile(rb"""\s*+wait\s*+=\s*+("?)(\d{1,6})\1\s*+(?:;.*)?""", re.IGNORECASE | re.DOTALL)
_ASYNC = re.compile(rb"\s*+respond-async\s*+(?:;.*)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Preferences:
    """What the client would like; what it did not say is None or False."""

    wait_s: float | None = None
    is_async: bool = False


_NONE = Preferences()


def read_preferences(header: bytes) -> Preferences:
    """Read the header's whole value. What is not understood is no error, and of two waits the first counts."""
    if not header:
        return _NONE
    preferences = _PREFERENCE.findall(header)
    waits = [found[2] for found in map(_WAIT.fullmatch, preferences) if found]
    is_async = any(_ASYNC.fullmatch(preference) for preference in preferences)
    return Preferences(float(waits[0]) if waits else None, is_async)

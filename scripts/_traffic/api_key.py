"""The API key that the scripts send, and what to tell a person whose key the API refuses."""

from __future__ import annotations

import os
from http import HTTPStatus

KEY_VARIABLE = "INFERLANE_API_KEY"


def read_key() -> str | None:
    """Return the key in the environment; None if there is none or, as Compose sets a missing one, an empty one."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None


def key_remedy(status: int | None) -> str:
    """Return how to give a script another key, for a status that refuses the one it has; empty for any other status.

    The API's own message names a header, which no script takes.
    """
    if status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return ""
    return f"the key of this script is that of {KEY_VARIABLE}; `inferlane keys create` makes one"

"""What schemathesis does like a client of ours: each call that it makes has an `Idempotency-Key` of its own.

It draws one key for many bodies. That is 422, as the draft of the header wants, and says nothing of the body.
"""

import uuid
from typing import Any

import schemathesis

_HEADER = "Idempotency-Key"


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Give a key that is valid an ending that no other has; one that is not stays what it is."""
    headers = case.headers or {}
    key = headers.get(_HEADER)
    if isinstance(key, str) and key.isprintable() and key.isascii() and 0 < len(key) <= 255 - 32:
        headers[_HEADER] = key + uuid.uuid4().hex

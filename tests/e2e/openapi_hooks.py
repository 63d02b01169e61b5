"""What schemathesis does like a client of ours: each call has an `Idempotency-Key` of its own, and time to be answered.

It draws one key for many bodies, which is 422 as the draft of the header wants, and deadlines of nothing, which end
504.
"""

import uuid
from typing import Any

import schemathesis

_HEADER = "Idempotency-Key"
_DEADLINE_S = 60.0


@schemathesis.hook
def before_call(_context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Give a key that is valid an ending that no other has, and a deadline that is valid some time."""
    key = (case.headers or {}).get(_HEADER)
    if isinstance(key, str) and key.isprintable() and key.isascii() and 0 < len(key) <= 255 - 32:
        kwargs.setdefault("headers", {})[_HEADER] = key + uuid.uuid4().hex
    deadline_s = case.body.get("deadline_s") if isinstance(case.body, dict) else None
    if isinstance(deadline_s, int | float) and not isinstance(deadline_s, bool) and 0 <= deadline_s < _DEADLINE_S:
        case.body["deadline_s"] = _DEADLINE_S

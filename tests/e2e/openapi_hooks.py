"""What schemathesis does like a client of ours: each call has an `Idempotency-Key` of its own, and time to be answered.

It draws one key for many bodies, which is 422 as the draft of the header wants, and deadlines of nothing, which end
504. A call that is to be refused stays as it was drawn.
"""

import uuid
from typing import Any

import schemathesis

_HEADER = "Idempotency-Key"
_DEADLINE_S = 60.0


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Give a call that is to be accepted a key that no other has, and a deadline that can be met."""
    if case.meta is None or case.meta.generation.mode is not schemathesis.GenerationMode.POSITIVE:
        return
    if _HEADER in (case.headers or {}):
        case.headers[_HEADER] = uuid.uuid4().hex
    if isinstance(case.body, dict) and "deadline_s" in case.body:
        case.body["deadline_s"] = max(_DEADLINE_S, case.body["deadline_s"] or _DEADLINE_S)

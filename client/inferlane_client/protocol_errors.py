"""The errors of calls of the Open Inference Protocol V2, whose bodies are `{"error": "…"}` without a code.

The status says which error it is, as in the table of the V1 call; `Retry-After` comes with what may be sent again.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus

from inferlane_client.call_errors import (
    CallError,
    Cancelled,
    Expired,
    Failed,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    KeyReused,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
    refusal,
)

_KINDS: Mapping[int, tuple[type[CallError], str]] = {
    HTTPStatus.BAD_REQUEST: (InvalidInput, "undecodable"),
    HTTPStatus.UNAUTHORIZED: (Unauthorized, "unauthorized"),
    HTTPStatus.FORBIDDEN: (Forbidden, "forbidden"),
    HTTPStatus.NOT_FOUND: (NotFound, "unknown_model"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (TooLarge, "payload_too_large"),
    HTTPStatus.GONE: (Cancelled, "cancelled"),
    HTTPStatus.UNPROCESSABLE_ENTITY: (InvalidInput, "invalid_input"),
    HTTPStatus.INTERNAL_SERVER_ERROR: (Failed, "model_error"),
    HTTPStatus.SERVICE_UNAVAILABLE: (Unavailable, "unavailable"),
    HTTPStatus.GATEWAY_TIMEOUT: (Expired, "deadline_exceeded"),
}
# What a 422 is about that is not the tensors, by a word that only its message has.
_OTHER_THAN_INPUT: Mapping[str, tuple[type[CallError], str]] = {
    "Idempotency-Key": (KeyReused, "idempotency_key_reused"),
    "callback": (InvalidRequest, "callback_refused"),
}


def protocol_refusal(status: int, headers: Mapping[str, str], body: bytes) -> CallError:
    """The error that an answer of this status, with these lower-case headers, stands for."""
    error = refusal(status, headers, body)
    message = _message_of(body)
    if message is None:
        return error
    kind, code = _KINDS.get(status, (type(error), error.code))
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        kind, code = next((other for word, other in _OTHER_THAN_INPUT.items() if word in message), (kind, code))
    retryable = error.retryable and error.retry_after_s is not None
    return kind(replace(error.problem, code=code, detail=message, retryable=retryable))


def _message_of(body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    message = document.get("error") if isinstance(document, dict) else None
    return message if isinstance(message, str) else None

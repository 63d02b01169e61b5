"""Errors as RFC 9457 problem documents; the only place that knows HTTP statuses."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from inferlane import errors
from inferlane.contracts.results import CANCELLED
from inferlane.runtime.http.head import encode_problem

# Nearest class first: a status is looked up along an error's own ancestry.
_STATUS_OF: Mapping[type[errors.InferlaneError], int] = {
    errors.DecodeError: 400,
    errors.InvalidRequestError: 422,
    errors.UnknownModelError: 404,
    errors.UnusableVersionError: 503,
    errors.PayloadTooLargeError: 413,
    errors.UnavailableError: 503,
    errors.RecordRefusedError: 503,
    errors.InferlaneError: 500,
}
_STATUS_OF_CODE = {
    errors.DecodeError.code: 422,
    errors.InvalidInputError.code: 422,
    errors.UnknownModelError.code: 404,
    errors.UnusableVersionError.code: 503,
    errors.PayloadTooLargeError.code: 413,
    errors.ModelError.code: 500,
    errors.RecordRefusedError.code: 503,
    errors.TopicMissingError.code: 503,
    errors.UnavailableError.code: 503,
    "deadline_exceeded": 504,
    CANCELLED: 410,
}
_TITLES = {
    errors.DecodeError.code: "The body cannot be read",
    errors.InvalidInputError.code: "The instances do not fit the model",
    errors.InvalidSplitError.code: "The weights make no traffic split",
    errors.PayloadTooLargeError.code: "Too large",
    errors.UnknownModelError.code: "No such model or version",
    errors.UnusableVersionError.code: "The version cannot be served",
    errors.ModelError.code: "The model failed",
    errors.FatalRecordError.code: "The worker died of the request",
    errors.UnavailableError.code: "Unavailable for now",
    errors.NotServedError.code: "A part that is needed does not serve us",
    errors.RecordRefusedError.code: "A topic does not take the request",
    errors.TopicMissingError.code: "A topic is missing",
    errors.OverloadedError.code: "Too many requests are waiting",
    errors.StoreFullError.code: "The result store is full",
    "deadline_exceeded": "The deadline passed first",
    CANCELLED: "The client took the request back",
    "unconfirmed": "Whether the request was accepted is not known",
    "client_gone": "The client went away",
    "unknown_prediction": "No such prediction",
    "idempotency_key_reused": "The key stands for another request",
    "unauthorized": "No valid key",
    "forbidden": "The key does not allow this",
    "invalid_parameter": "A parameter is not as it must be",
    "unsupported_encoding": "The body is compressed in a way that is not read here",
}
_RETRY_AFTER_S = 1


class UnknownPredictionError(errors.InvalidRequestError):
    """An id that no replica has accepted, or whose result was kept long enough and forgotten."""

    code = "unknown_prediction"


class KeyReusedError(errors.InvalidRequestError):
    """An `Idempotency-Key` that stands for another body. Remedy: a new key for a new request."""

    code = "idempotency_key_reused"


class UnauthorizedError(errors.InvalidRequestError):
    """No key, or one that is not in force. Remedy: send `Authorization: Bearer <key>`."""

    code = "unauthorized"


class ForbiddenError(errors.InvalidRequestError):
    """The key lacks the scope that the call needs. Remedy: use a key that has it."""

    code = "forbidden"


class UnsupportedCodingError(errors.InvalidRequestError):
    """A body in a `Content-Encoding` that is not read here. Remedy: the message names those that are."""

    code = "unsupported_encoding"


class InvalidParameterError(errors.InvalidRequestError):
    """A field, header or query parameter beside the instances. Remedy: the message names the limit."""

    code = "invalid_parameter"


class UnconfirmedError(errors.UnavailableError):
    """Nobody knows yet whether the request was accepted. Remedy: send it again with the same `Idempotency-Key`."""

    code = "unconfirmed"

    def __init__(self, message: str, *, request_id: str) -> None:
        """`request_id`: under which it is answered if it was accepted."""
        super().__init__(message)
        self.request_id = request_id


class ClientGoneError(errors.InvalidRequestError):
    """The client closed its connection before the answer was there; nobody reads this."""

    code = "client_gone"


_OWN_STATUS_OF: Mapping[type[errors.InferlaneError], int] = {
    UnknownPredictionError: HTTPStatus.NOT_FOUND,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    UnsupportedCodingError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    # Of nginx, for the log and the metrics: such an answer reaches nobody.
    ClientGoneError: 499,
}
# Source: RFC 6750, section 3.
_CHALLENGE_OF: Mapping[type[errors.InferlaneError], str] = {
    UnauthorizedError: 'Bearer realm="inferlane"',
    ForbiddenError: 'Bearer realm="inferlane", error="insufficient_scope"',
}


def status_of(error: errors.InferlaneError) -> int:
    """The HTTP status of an error raised while the call was served."""
    own = _OWN_STATUS_OF.get(type(error))
    return own or next(_STATUS_OF[kind] for kind in type(error).__mro__ if kind in _STATUS_OF)


def status_of_code(code: str | None) -> int:
    """The HTTP status of a terminal result that has this error code."""
    return _STATUS_OF_CODE.get(code or "", HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(status: int, code: str, detail: str, *, retryable: bool = False, **more: Any) -> bytes:
    """Encode a problem document with the title of its code."""
    return encode_problem(status, code, detail, title=_TITLES.get(code), retryable=retryable, **more)


def _retry_after_s(error: errors.InferlaneError) -> int:
    """Whole seconds, as RFC 9110 section 10.2.3 wants them, and never 0, which asks for the same answer again."""
    return max(1, math.ceil(error.retry_after_s)) if isinstance(error, errors.OverloadedError) else _RETRY_AFTER_S


def problem_of(error: errors.InferlaneError) -> tuple[int, bytes, dict[str, str]]:
    """The status, document and extra headers of an error."""
    status = status_of(error)
    headers = {"retry-after": str(_retry_after_s(error))} if error.retryable else {}
    if challenge := _CHALLENGE_OF.get(type(error)):
        headers["www-authenticate"] = challenge
    if isinstance(error, UnsupportedCodingError):
        # RFC 9110, section 15.5.16.
        headers["accept-encoding"] = "gzip, deflate"
    more = {"request_id": error.request_id} if isinstance(error, UnconfirmedError) else {}
    return status, problem(status, error.code, str(error), retryable=error.retryable, **more), headers

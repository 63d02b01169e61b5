"""Errors as RFC 9457 problem documents; `PROBLEMS` is the one table of their HTTP statuses and titles."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from inferlane import errors
from inferlane.contracts.results import CANCELLED, EXPIRED, Result
from inferlane.runtime.http.problem import CONTENT_TYPE, encode_problem
from producer_api.http.asgi import PlainResponse

_PROBLEM = CONTENT_TYPE.encode()
_RETRY_AFTER_S = 1


class UnknownPredictionError(errors.InvalidRequestError):
    """The id was never accepted, or its result has expired from the store."""

    code = "unknown_prediction"


class FeedbackOffError(errors.InvalidRequestError):
    """The stack makes no outcome tokens. Remedy: set INFERLANE_FEEDBACK_SECRET for API, router and workers."""

    code = "feedback_off"


class KeyReusedError(errors.InvalidRequestError):
    """The `Idempotency-Key` was used with another body. Remedy: use a new key for a new request."""

    code = "idempotency_key_reused"


class UnauthorizedError(errors.InvalidRequestError):
    """The call has no key, or one that is not valid. Remedy: send `Authorization: Bearer <key>`."""

    code = "unauthorized"


class ForbiddenError(errors.InvalidRequestError):
    """The key lacks the scope that the call needs. Remedy: use a key with that scope."""

    code = "forbidden"


class UnsupportedCodingError(errors.InvalidRequestError):
    """The `Content-Encoding` of the body is not supported. Remedy: use one of those that the message names."""

    code = "unsupported_encoding"


class InvalidParameterError(errors.InvalidRequestError):
    """A field, header or query parameter is not valid. Remedy: the message names the limit."""

    code = "invalid_parameter"


class UnconfirmedError(errors.UnavailableError):
    """It is not known whether the request was accepted. Remedy: send it again with the same `Idempotency-Key`."""

    code = "unconfirmed"

    def __init__(self, message: str, *, request_id: str) -> None:
        """`request_id` is the id of the result if the request was accepted."""
        super().__init__(message)
        self.request_id = request_id


class ClientGoneError(errors.InvalidRequestError):
    """The client closed its connection before the response; nobody reads this problem."""

    code = "client_gone"


class ProblemKind(NamedTuple):
    """How HTTP reports an error code."""

    status: int
    title: str | None = None
    # For a terminal result with this code: the API could read the call, so 400 would be wrong.
    result_status: int | None = None


PROBLEMS: Mapping[str, ProblemKind] = {
    errors.DecodeError.code: ProblemKind(400, "The body cannot be read", result_status=422),
    UnauthorizedError.code: ProblemKind(401, "No valid API key"),
    ForbiddenError.code: ProblemKind(403, "The key does not allow this"),
    errors.UnknownModelError.code: ProblemKind(404, "No such model or version"),
    UnknownPredictionError.code: ProblemKind(404, "No such prediction"),
    FeedbackOffError.code: ProblemKind(404, "There are no outcome tokens"),
    CANCELLED: ProblemKind(410, "The client cancelled the request"),
    errors.PayloadTooLargeError.code: ProblemKind(413, "The body is too large"),
    UnsupportedCodingError.code: ProblemKind(415, "The content coding is not supported"),
    errors.InvalidRequestError.code: ProblemKind(422),
    errors.CallbackRefusedError.code: ProblemKind(422, "No callback can be sent there"),
    errors.InvalidInputError.code: ProblemKind(422, "The instances do not fit the model"),
    errors.UnknownRolloutError.code: ProblemKind(404, "No such rollout"),
    errors.RolloutUnderWayError.code: ProblemKind(409, "A rollout is under way"),
    errors.RolloutStateError.code: ProblemKind(409, "The command does not apply now"),
    errors.InvalidRolloutError.code: ProblemKind(422, "The rollout cannot be done"),
    errors.InvalidSplitError.code: ProblemKind(422, "The weights are not a valid traffic split"),
    KeyReusedError.code: ProblemKind(422, "The idempotency key was used for another request"),
    InvalidParameterError.code: ProblemKind(422, "A parameter is not valid"),
    # The status that nginx uses, for the log and the metrics; no client reads this response.
    ClientGoneError.code: ProblemKind(499, "The client disconnected"),
    errors.InferlaneError.code: ProblemKind(500),
    errors.ModelError.code: ProblemKind(500, "The model failed"),
    errors.FatalRecordError.code: ProblemKind(500, "The worker crashed on the request"),
    errors.UnusableVersionError.code: ProblemKind(503, "The version cannot be served"),
    errors.UnavailableError.code: ProblemKind(503, "Unavailable for now"),
    errors.NotServedError.code: ProblemKind(503, "A required service refused the API"),
    errors.RecordRefusedError.code: ProblemKind(503, "A topic refused the request"),
    errors.TopicMissingError.code: ProblemKind(503, "A topic is missing"),
    errors.OverloadedError.code: ProblemKind(503, "Too many requests are waiting"),
    errors.StoreFullError.code: ProblemKind(503, "The result store is full"),
    UnconfirmedError.code: ProblemKind(503, "Whether the request was accepted is not known"),
    EXPIRED: ProblemKind(504, "The deadline passed first"),
}
_UNKNOWN = PROBLEMS[errors.InferlaneError.code]

GRPC_CODES: Mapping[int, str] = {
    200: "OK",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "FAILED_PRECONDITION",
    410: "CANCELLED",
    # As gRPC itself says of a message over its limit.
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    499: "CANCELLED",
    500: "INTERNAL",
    # Not RESOURCE_EXHAUSTED, also for too many requests: clients of gRPC send again what is UNAVAILABLE.
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The status code of gRPC for each HTTP status of `PROBLEMS`."""
# Source: RFC 6750, section 3.
_CHALLENGES: Mapping[str, bytes] = {
    UnauthorizedError.code: b'Bearer realm="inferlane"',
    ForbiddenError.code: b'Bearer realm="inferlane", error="insufficient_scope"',
}


def status_of(error: errors.InferlaneError) -> int:
    """The HTTP status of a raised error: that of its code, or else of its nearest ancestor that has one."""
    ancestors = (kind for kind in type(error).__mro__ if issubclass(kind, errors.InferlaneError))
    return next(PROBLEMS[kind.code].status for kind in ancestors if kind.code in PROBLEMS)


def status_of_code(code: str | None) -> int:
    """The HTTP status of a terminal result that has this error code."""
    known = PROBLEMS.get(code or "", _UNKNOWN)
    return known.result_status or known.status


def problem(status: int, code: str, detail: str, *, retryable: bool = False, **more: Any) -> bytes:
    """Encode a problem document with the title of its code."""
    return encode_problem(status, code, detail, title=PROBLEMS.get(code, _UNKNOWN).title, retryable=retryable, **more)


def problem_of(error: errors.InferlaneError) -> PlainResponse:
    """Return the response to a call that failed with this error."""
    status = status_of(error)
    headers = []
    if error.retryable:
        headers.append((b"retry-after", b"%d" % retry_after_s(error)))
    if challenge := _CHALLENGES.get(error.code):
        headers.append((b"www-authenticate", challenge))
    if isinstance(error, UnsupportedCodingError):
        # RFC 9110, section 15.5.16.
        headers.append((b"accept-encoding", b"gzip, deflate"))
    more = {"request_id": error.request_id} if isinstance(error, UnconfirmedError) else {}
    document = problem(status, error.code, str(error), retryable=error.retryable, **more)
    return PlainResponse(status, document, _PROBLEM, tuple(headers))


def result_problem(result: Result) -> PlainResponse:
    """Return the response to a call whose request ended without predictions."""
    status = status_of_code(result.error_code)
    document = problem(
        status,
        result.error_code or errors.InferlaneError.code,
        result.error_detail or "",
        request_id=result.request_id,
        model=result.model,
        version=result.version,
        prediction_status=result.status.value,
    )
    return PlainResponse(status, document, _PROBLEM)


def stopping() -> errors.OverloadedError:
    """Return the error of a call that the end of this process ends."""
    return errors.OverloadedError("the API is stopping; send the request again")


def crash_error(error: Exception) -> errors.InferlaneError:
    """Return what a client is told of a bug of ours; the log has the details."""
    return errors.InferlaneError(f"an unexpected error: {type(error).__name__}")


def retry_after_s(error: errors.InferlaneError) -> int:
    """Whole seconds, as RFC 9110 section 10.2.3 wants them, and never 0, which asks for the same answer again."""
    return max(1, math.ceil(error.retry_after_s)) if isinstance(error, errors.OverloadedError) else _RETRY_AFTER_S

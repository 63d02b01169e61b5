"""Every error that a call may end in.

CallError
├── InvalidRequest       the request cannot be served as it stands: change it
│   ├── InvalidInput     the rows do not fit the model, or cannot be sent as JSON
│   ├── KeyReused        the `Idempotency-Key` stands for another request
│   └── TooLarge         over a size limit
├── Unauthorized         no API key, or one that is not in force
├── Forbidden            the API key lacks the scope that the call needs
├── NotFound             no such model, version or prediction
├── Unavailable          a part that is needed does not answer now: the same call may succeed later
│   ├── Overloaded       too much waits already; `retry_after_s` says when to try again
│   └── ConnectionFailed no answer came
├── TimedOut             the caller's time ran out; a request that was accepted goes on
├── Unsuccessful         the request was accepted, and ended without a result
│   ├── Failed           the model or a worker failed
│   ├── Expired          the deadline passed first
│   └── Cancelled        it was taken back
└── UnexpectedAnswer     an answer that the API does not document

What the server refuses comes with an RFC 9457 problem document, whose members the error has.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

# Answers of a proxy in front, or of a server that is stopping: the same call may succeed in a moment.
_PASSING = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_QUOTED_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemDetails:
    """What went wrong. `status` is None where the server has not said it; `ended` marks a request that is over."""

    code: str
    title: str
    detail: str
    status: int | None = None
    retryable: bool = False
    retry_after_s: float | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    ended: bool = False


class CallError(Exception):
    """The root of the tree. Its message says what happened, the value, the limit and the remedy."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        where = f"HTTP {self.status}, " if self.status is not None else ""
        return f"{self.title}: {self.detail} ({where}{self.code})"

    @property
    def code(self) -> str:
        """The server's stable name of the error, such as `invalid_input`."""
        return self.problem.code

    @property
    def status(self) -> int | None:
        """The HTTP status of the answer; None if there was none."""
        return self.problem.status

    @property
    def title(self) -> str:
        """The error in a few words."""
        return self.problem.title

    @property
    def detail(self) -> str:
        """What happened, the value, the limit and the remedy."""
        return self.problem.detail

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later with nothing changed by the caller."""
        return self.problem.retryable

    @property
    def request_id(self) -> str | None:
        """The request that the error is about; None if it was not accepted, or nobody knows."""
        return self.problem.request_id

    @property
    def idempotency_key(self) -> str | None:
        """The key under which the request was sent: sent again with it, it is computed once."""
        return self.problem.idempotency_key

    @property
    def retry_after_s(self) -> float | None:
        """The seconds after which the server wants to see the call again."""
        return self.problem.retry_after_s


class InvalidRequest(CallError):
    """The request cannot be served as it stands. Remedy: change it as the detail says."""


class InvalidInput(InvalidRequest):
    """The rows do not fit the model, or cannot be sent as JSON. Remedy: send what the detail names."""


class KeyReused(InvalidRequest):
    """The `Idempotency-Key` stands for another request. Remedy: a new key for a new request."""


class TooLarge(InvalidRequest):
    """Over a size limit. Remedy: send fewer rows a request."""


class Unauthorized(CallError):
    """No API key, or one that is not in force. Remedy: give `api_key` to the client."""


class Forbidden(CallError):
    """The API key lacks the scope that the call needs. Remedy: use a key that has it."""


class NotFound(CallError):
    """No such model, version, prediction or rollout. Remedy: `models()` lists what is served."""


class Unavailable(CallError):
    """A part that is needed does not answer now. Remedy: the same call later."""


class Overloaded(Unavailable):
    """Too much waits already. Remedy: the same call after `retry_after_s` seconds."""


class ConnectionFailed(Unavailable):
    """No answer came. Remedy: look at the address, the server and the certificate that the detail names."""


class TimedOut(CallError):
    """The caller's time ran out first. A request that was accepted goes on: `handle(error.request_id).result()`."""


class Unsuccessful(CallError):
    """The request was accepted, and ended without a result."""


class Failed(Unsuccessful):
    """The model or a worker failed. Remedy: as the detail says."""


class Expired(Unsuccessful):
    """The deadline passed before the result was there. Remedy: a longer `deadline_s`, or fewer requests."""


class Cancelled(Unsuccessful):
    """The request was taken back."""


class UnexpectedAnswer(CallError):
    """An answer that the API does not document. Remedy: look at what answers at that address."""


_KIND_OF_CODE: Mapping[str, type[CallError]] = {
    "undecodable": InvalidInput,
    "invalid_input": InvalidInput,
    "payload_too_large": TooLarge,
    "idempotency_key_reused": KeyReused,
    "unknown_model": NotFound,
    "unknown_prediction": NotFound,
    "overloaded": Overloaded,
    "store_full": Overloaded,
    "deadline_exceeded": Expired,
    "cancelled": Cancelled,
}
_KIND_OF_STATUS: Mapping[int, type[CallError]] = {
    HTTPStatus.BAD_REQUEST: InvalidRequest,
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: InvalidRequest,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: InvalidRequest,
    HTTPStatus.UNPROCESSABLE_ENTITY: InvalidRequest,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: TooLarge,
    HTTPStatus.TOO_MANY_REQUESTS: Overloaded,
    HTTPStatus.BAD_GATEWAY: Unavailable,
    HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
    HTTPStatus.GATEWAY_TIMEOUT: Unavailable,
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> CallError:
    """The error that an answer of this status, with these lower-case headers, stands for.

    A problem document says whether the call may be sent again; of other answers the status does.
    """
    document = _object_of(body)
    code = document.get("code")
    if not isinstance(code, str):
        return _kind_of(status, "")(
            ProblemDetails(
                code=f"http_{status}",
                title=_phrase(status),
                detail=f"the answer is no problem document; it begins with {body[:_QUOTED_CHARS]!r}",
                status=status,
                retryable=status in _PASSING,
                retry_after_s=_seconds_of(headers.get("retry-after")),
            )
        )
    ended = "prediction_status" in document
    problem = ProblemDetails(
        code=code,
        title=str(document.get("title") or _phrase(status)),
        detail=str(document.get("detail") or ""),
        status=status,
        retryable=not ended and bool(document.get("retryable", status in _PASSING)),
        retry_after_s=_seconds_of(headers.get("retry-after")),
        request_id=_text_of(document.get("request_id")),
        ended=ended,
    )
    return ending(problem) if ended else _kind_of(status, code)(problem)


def ending(problem: ProblemDetails) -> CallError:
    """The error of a request that ended without a result."""
    return _KIND_OF_CODE.get(problem.code, Failed)(problem)


def _kind_of(status: int, code: str) -> type[CallError]:
    return _KIND_OF_CODE.get(code) or _KIND_OF_STATUS.get(status, UnexpectedAnswer)


def _object_of(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _text_of(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"


def _seconds_of(retry_after: str | None) -> float | None:
    """The seconds that a `Retry-After` names, which may be a date (RFC 9110, section 10.2.3); None if it is neither."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

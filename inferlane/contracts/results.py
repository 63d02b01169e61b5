"""The terminal result of a request: the store keeps it, a wake-up carries it, and the API responds with it."""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Self, TypeVar

import msgspec

from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.wire.short_heads import short_head, whole_head
from inferlane.errors import UNDECODABLE, DecodeError, InferlaneError, InvalidInputError, clipped

_T = TypeVar("_T")


# A detail is copied into a header and a wake-up; a model's own message may have any length.
_DETAIL_LIMIT_CHARS = 2_000


CANCELLED = "cancelled"
"""The `error_code` of a cancelled request."""

NO_FAULTS_OF_A_VERSION = frozenset({DecodeError.code, InvalidInputError.code, CANCELLED})
"""The `error_code`s of requests that any version would have failed: errors of the sender, and cancellations."""


EXPIRED = "deadline_exceeded"
"""The `error_code` of a request whose deadline passed first."""


class Status(StrEnum):
    """The status of a request. All but QUEUED are terminal; only an operator's replay changes those."""

    QUEUED = "QUEUED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"

    @property
    def is_terminal(self) -> bool:
        """Whether a request that has it is answered."""
        return self is not Status.QUEUED


class Result(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One terminal result. Times are seconds since the epoch, durations seconds.

    `content` is an Open Inference Protocol V2 response; `json_length` is the length of its JSON part when it
    carries binary tensors. A FAILED result has `error_code` (of `inferlane.errors`) and `error_detail` instead.
    """

    request_id: str
    status: Status
    model: str
    version: str
    attempt: int = 1
    accepted_s: float = 0.0
    finished_s: float = 0.0
    queue_wait_s: float = 0.0
    inference_s: float = 0.0
    rows: int = 0
    content: bytes = b""
    json_length: int | None = None
    error_code: str | None = None
    error_detail: str | None = None
    # The key in the store if the request was a foreign one (`contracts.identity`); else empty, and the key is the id.
    foreign_key: str = ""
    # The name of the API key that sent the request; empty without one.
    caller: str = ""
    # The token for feedback (`contracts.outcome_token`); empty without a secret, and of a request that did not succeed.
    outcome_token: str = ""

    @property
    def key(self) -> str:
        """The key under which the store keeps it."""
        return self.foreign_key or self.request_id

    @classmethod
    def failed(cls, headers: RequestHeaders, error: InferlaneError, *, now_s: float) -> Self:
        """Return the result of a request that `error` ended."""
        return cls._ended(headers, Status.FAILED, error.code, str(error), now_s)

    @classmethod
    def expired(cls, headers: RequestHeaders, *, now_s: float) -> Self:
        """Return the result of a request whose deadline passed before it was computed."""
        late_s = now_s - (headers.deadline_s or now_s)
        detail = f"the deadline passed {late_s:.3f} s before a worker could start; allow more with deadline_s"
        return cls._ended(headers, Status.EXPIRED, EXPIRED, detail, now_s)

    @classmethod
    def cancelled(cls, headers: RequestHeaders, *, now_s: float) -> Self:
        """Return the result of a request that its client cancelled before it was computed."""
        detail = "the client cancelled the request before a worker started it; submit it again if it is wanted"
        return cls._ended(headers, Status.FAILED, CANCELLED, detail, now_s)

    @classmethod
    def _ended(cls, headers: RequestHeaders, status: Status, code: str, detail: str, now_s: float) -> Self:
        return cls(
            request_id=headers.request_id,
            status=status,
            model=headers.model or "",
            version=headers.version or "",
            attempt=headers.attempt,
            accepted_s=headers.accepted_s,
            finished_s=now_s,
            queue_wait_s=max(0.0, now_s - headers.accepted_s),
            error_code=code,
            error_detail=detail[:_DETAIL_LIMIT_CHARS],
            foreign_key=foreign_key_of(headers),
            caller=headers.caller,
        )


class Accepted(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What every API replica must know of a request that has no result yet."""

    model: str
    version: str | None
    accepted_s: float
    deadline_s: float
    # As in `Result`.
    caller: str = ""


def foreign_key_of(headers: RequestHeaders) -> str:
    """Return what `Result.foreign_key` is for a request with these headers."""
    return "" if headers.key == headers.request_id else headers.key


_encode = msgspec.msgpack.Encoder().encode
_decode_result = msgspec.msgpack.Decoder(Result).decode
_decode_accepted = msgspec.msgpack.Decoder(Accepted).decode
_decode_wake_up = msgspec.msgpack.Decoder(list[Result]).decode


def encode_result(result: Result) -> bytes:
    """Return the bytes that the store keeps of a result: with a short form of its JSON part, where there is one.

    A negative `json_length` says so: it is that of the short form.
    """
    short = short_head(result.content, result.json_length, result.model, result.version)
    if short is None:
        return _encode(result)
    content = short + result.content[result.json_length :]
    return _encode(msgspec.structs.replace(result, content=content, json_length=-len(short)))


def encode_accepted(accepted: Accepted) -> bytes:
    """Return the bytes that the store keeps of an accepted request."""
    return _encode(accepted)


def encode_wake_up(results: Sequence[Result]) -> bytes:
    """One message for every result that one API instance waits for."""
    return _encode(results)


# Results up to this size are sent in the wake-up itself; the waiter reads a larger one from its key, so that no message
# outgrows the store's buffer for subscribers.
_WAKE_UP_CONTENT_BYTES = 64 * 1024
_WAKE_UP_RESULTS = 256


def wake_ups(results: Sequence[Result]) -> Iterator[bytes]:
    """Yield the messages for one API instance; an empty one says that there are results too large to carry."""
    small = [result for result in results if len(result.content) <= _WAKE_UP_CONTENT_BYTES]
    for start in range(0, len(small), _WAKE_UP_RESULTS):
        yield encode_wake_up(small[start : start + _WAKE_UP_RESULTS])
    if len(small) < len(results):
        yield encode_wake_up([])


def decode_result(raw: bytes) -> Result:
    """Read a stored result.

    Raises:
        DecodeError: the bytes cannot be decoded.
    """
    return _decoded(_whole_result, raw)


def decode_accepted(raw: bytes) -> Accepted:
    """Read the mark of an accepted request.

    Raises:
        InferlaneError: the stored bytes are damaged.
    """
    try:
        return _decoded(_decode_accepted, raw)
    except DecodeError as error:
        # Not a `DecodeError`, which would tell the client that its own request cannot be read.
        raise InferlaneError(
            f"the mark of the accepted request is damaged in the store: {error}. Send the request again; if this "
            "repeats, look for what else writes to the store"
        ) from error


def decode_wake_up(raw: bytes) -> list[Result]:
    """Read the results that a wake-up carries.

    Raises:
        DecodeError: the bytes cannot be decoded.
    """
    return _decoded(_decode_wake_up, raw)


def _whole_result(raw: bytes) -> Result:
    result = _decode_result(raw)
    if result.json_length is None or result.json_length >= 0:
        return result
    length = -result.json_length
    head = whole_head(result.content[:length], result.model, result.version)
    return msgspec.structs.replace(result, content=head + result.content[length:], json_length=len(head))


def _decoded(decode: Callable[[bytes], _T], raw: bytes) -> _T:
    try:
        return decode(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"stored bytes are not what the contract says: {clipped(str(error))}") from error

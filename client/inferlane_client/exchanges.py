"""What a call sends and how it goes on from each answer, without I/O: one logic for the sync and the async client.

Each call is a generator. It yields what is to be done, `Send` or `Pause`, is sent what came of it, and returns the
result of the call. Source of the idea: https://sans-io.readthedocs.io.
"""

import itertools
import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

from inferlane_client.answers import (
    Prediction,
    ServedModel,
    Status,
    TrafficSplit,
    is_cancelled,
    read_models,
    read_object,
    read_prediction,
    read_request_id,
    read_split,
    read_status,
)
from inferlane_client.call_errors import CallError, ConnectionFailed, Problem, TimedOut, refusal
from inferlane_client.request import Request, encode_json

_PREDICT = "/v1/models/predict"
_SPLIT = "/v1/traffic-split"
_JSON = "application/json"
# The longest wait that one call asks of the server: longer ones are cut by proxies, shorter ones cost more calls.
_LONGEST_WAIT_S = 30.0
# What is left of the caller's time for the way back of an answer that the server gives at the end of its wait.
_WAY_BACK_S = 0.5
# What an exchange may take however little time is left: less, and an accepted request is lost out of sight.
_SHORTEST_EXCHANGE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How a call is sent again that the server did not take: with exponential back-off and full jitter.

    A `Retry-After` of the server is kept to. No call is sent again once its time is over, nor when the wait would
    outlast it. Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter.

    Args:
        limit: how often a call is sent again at most. 0 tells the caller at once.
        first_s: the longest wait before the first retry; it doubles with each.
        longest_s: where it stops doubling.
    """

    limit: int = 20
    first_s: float = 0.1
    longest_s: float = 5.0

    def delay_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Seconds before retry `attempt`, which counts from 0."""
        jitter_s = random.uniform(0, min(self.longest_s, self.first_s * 2**attempt))  # noqa: S311 - nothing secret
        return (retry_after_s or 0.0) + jitter_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this and bring the answer, within `timeout_s`."""

    method: str
    path: str
    timeout_s: float = 0.0
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Go on after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer. The names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NoReply:
    """No answer came. A certificate that is not trusted is not mended by another try: that is no `retryable` reason."""

    reason: str
    has_timed_out: bool = False
    retryable: bool = True


Outcome = Reply | NoReply | None
T = TypeVar("T")
Steps = Generator[Send | Pause, Outcome, T]


class _Deadline:
    def __init__(self, clock: Callable[[], float], timeout_s: float) -> None:
        self._clock = clock
        self._until_s = clock() + timeout_s
        self.timeout_s = timeout_s

    def left_s(self) -> float:
        return max(0.0, self._until_s - self._clock())

    def wait_s(self) -> float:
        """How long the server may wait, so that its answer comes in time."""
        left_s = self.left_s()
        return min(_LONGEST_WAIT_S, left_s - min(_WAY_BACK_S, left_s / 2))


class Exchanges:
    """The calls of one client. `clock` is monotonic, in seconds."""

    def __init__(self, retries: Retries, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._retries = retries
        self._clock = clock

    def predict(self, request: Request, *, timeout_s: float) -> Steps[Prediction]:
        """Send the request, and return its result."""
        deadline = _Deadline(self._clock, timeout_s)
        key, send = _creation(request)

        def waiting() -> Send:
            # In a header and not in the body, which must be the same bytes each time. Whole seconds: RFC 7240.
            return replace(send, headers={**send.headers, "prefer": f"wait={int(deadline.wait_s())}"})

        reply = yield from self._answered(waiting, deadline, key=key)
        if reply.status == HTTPStatus.OK:
            return read_prediction(read_object(reply.body), http_status=reply.status)
        return (yield from self._result(read_request_id(reply.body), deadline, key=key))

    def submit(self, request: Request, *, timeout_s: float) -> Steps[str]:
        """Send the request, and return its id once it is accepted."""
        key, send = _creation(request)
        send = replace(send, headers={**send.headers, "prefer": "respond-async"})
        try:
            reply = yield from self._answered(lambda: send, _Deadline(self._clock, timeout_s), key=key)
        except CallError as error:
            # The key stands for a request that has ended without a result: it was accepted, and its id says the rest.
            if error.problem.ended and error.request_id is not None:
                return error.request_id
            raise
        return read_request_id(reply.body)

    def result(self, request_id: str, *, timeout_s: float) -> Steps[Prediction]:
        """Wait for the result of a request."""
        return self._result(request_id, _Deadline(self._clock, timeout_s), key=None)

    def status(self, request_id: str, *, timeout_s: float) -> Steps[Status]:
        """Where a request is."""
        document = yield from self._document(Send(method="GET", path=_path_of(request_id)), timeout_s)
        return read_status(document)

    def cancel(self, request_id: str, *, timeout_s: float) -> Steps[bool]:
        """Take a request back; return whether that is how it ended."""
        document = yield from self._document(Send(method="DELETE", path=_path_of(request_id)), timeout_s)
        return is_cancelled(document)

    def models(self, *, timeout_s: float) -> Steps[tuple[ServedModel, ...]]:
        """What is served."""
        document = yield from self._document(Send(method="GET", path="/v1/models"), timeout_s)
        return read_models(document)

    def traffic_split(self, model: str | None, *, timeout_s: float) -> Steps[TrafficSplit]:
        """The weights in force."""
        document = yield from self._document(Send(method="GET", path=_SPLIT, params=_named(model)), timeout_s)
        return read_split(document)

    def set_traffic_split(
        self, weights: Mapping[str, float], model: str | None, *, timeout_s: float
    ) -> Steps[TrafficSplit]:
        """Set the weights. Setting them twice is setting them once, so it is safe to send again."""
        body = encode_json({**_named(model), "weights": dict(weights)})
        send = Send(method="POST", path=_SPLIT, body=body, headers={"content-type": _JSON})
        document = yield from self._document(send, timeout_s)
        return read_split(document)

    def metrics(self, version: str, model: str | None, window_s: float, *, timeout_s: float) -> Steps[dict[str, Any]]:
        """What a version did lately."""
        params = {**_named(model), "window_s": f"{window_s:g}"}
        path = f"/v1/metrics/{quote(version, safe='')}"
        return self._document(Send(method="GET", path=path, params=params), timeout_s)

    def _result(self, request_id: str, deadline: _Deadline, *, key: str | None) -> Steps[Prediction]:
        def waiting() -> Send:
            return Send(method="GET", path=_path_of(request_id), params={"wait_s": f"{deadline.wait_s():.3f}"})

        while True:
            is_last_look = deadline.left_s() < _WAY_BACK_S
            try:
                reply = yield from self._answered(waiting, deadline, key=key)
            except TimedOut as error:
                raise TimedOut(replace(error.problem, request_id=request_id)) from error
            document = read_object(reply.body)
            if read_status(document) is not Status.QUEUED:
                return read_prediction(document, http_status=reply.status)
            if is_last_look:
                raise _timed_out(f"request {request_id} has no result", deadline, key=key, request_id=request_id)

    def _document(self, send: Send, timeout_s: float) -> Steps[dict[str, Any]]:
        reply = yield from self._answered(lambda: send, _Deadline(self._clock, timeout_s))
        return read_object(reply.body)

    def _answered(self, making: Callable[[], Send], deadline: _Deadline, *, key: str | None = None) -> Steps[Reply]:
        """Send until an answer comes that is no refusal, or one that no retry mends, or time or retries are used up."""
        for attempt in itertools.count():
            send = making()
            outcome = yield replace(send, timeout_s=max(_SHORTEST_EXCHANGE_S, deadline.left_s()))
            if isinstance(outcome, Reply) and outcome.status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                return outcome
            error = _error_of(send, outcome, deadline, key)
            delay_s = self._retries.delay_s(attempt, error.retry_after_s)
            if not error.retryable or attempt >= self._retries.limit or delay_s >= deadline.left_s():
                raise error
            yield Pause(delay_s)
        raise AssertionError  # pragma: no cover - the count has no end


def _creation(request: Request) -> tuple[str, Send]:
    key = request.idempotency_key or uuid.uuid4().hex
    headers = {"content-type": _JSON, "idempotency-key": key}
    return key, Send(method="POST", path=_PREDICT, body=request.encoded(), headers=headers)


def _error_of(send: Send, outcome: Outcome, deadline: _Deadline, key: str | None) -> CallError:
    if isinstance(outcome, Reply):
        error = refusal(outcome.status, outcome.headers, outcome.body)
        return type(error)(replace(error.problem, idempotency_key=key))
    reason = outcome.reason if outcome else "nothing was sent"
    what = f"{send.method} {send.path} got no answer"
    if outcome and outcome.has_timed_out:
        return _timed_out(what, deadline, key=key)
    return ConnectionFailed(
        Problem(
            code="connection_failed",
            title="No answer came",
            detail=f"{what}: {reason}",
            retryable=outcome is not None and outcome.retryable,
            idempotency_key=key,
        )
    )


def _timed_out(what: str, deadline: _Deadline, *, key: str | None, request_id: str | None = None) -> TimedOut:
    return TimedOut(
        Problem(
            code="timed_out",
            title="The time of the call ran out",
            detail=f"{what} within {deadline.timeout_s:g} s; a request that was accepted goes on",
            request_id=request_id,
            idempotency_key=key,
        )
    )


def _path_of(request_id: str) -> str:
    return f"/v1/predictions/{quote(request_id, safe='')}"


def _named(model: str | None) -> dict[str, str]:
    return {} if model is None else {"model": model}

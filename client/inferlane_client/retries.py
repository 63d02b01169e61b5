"""How a call is sent until it is answered, without I/O: its time, its retries, and what counts as an answer.

Each call is a generator. It yields what is to be done, `Send` or `Pause`, is sent what came of it, and returns the
result of the call. Source of the idea: https://sans-io.readthedocs.io.
"""

import math
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

from inferlane_client.call_errors import CallError, ConnectionFailed, ProblemDetails, TimedOut, refusal

# The longest wait that one call asks of the server: longer ones are cut by proxies, shorter ones cost more calls.
LONGEST_WAIT_S = 30.0
# What is left of the caller's time for the way back of an answer that the server gives at the end of its wait.
WAY_BACK_S = 0.5
# What an exchange may take however little time is left: less, and an accepted request is lost out of sight.
_SHORTEST_EXCHANGE_S = 1.0
# The system takes no time without end.
_LONGEST_EXCHANGE_S = 86_400.0


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
class HttpReply:
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


Outcome = HttpReply | NoReply | None
T = TypeVar("T")
Steps = Generator[Send | Pause, Outcome, T]


class Deadline:
    """When the time of a call is over."""

    def __init__(self, clock: Callable[[], float], timeout_s: float) -> None:
        if math.isnan(timeout_s):
            raise ValueError(f"timeout_s is {timeout_s}; it must be a number of seconds")
        self._clock = clock
        self._until_s = clock() + timeout_s
        self.timeout_s = timeout_s

    def left_s(self) -> float:
        """Seconds that are left, never less than 0."""
        return max(0.0, self._until_s - self._clock())

    def wait_s(self) -> float:
        """How long the server may wait, so that its answer comes in time."""
        left_s = self.left_s()
        return min(LONGEST_WAIT_S, left_s - min(WAY_BACK_S, left_s / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyForm:
    """Which replies are answers, and which error each other one stands for: given its status, headers and body."""

    is_answer: Callable[[HttpReply], bool]
    refusal: Callable[[int, Mapping[str, str], bytes], CallError]


V1_FORM = ReplyForm(
    is_answer=lambda reply: reply.status in {HTTPStatus.OK, HTTPStatus.ACCEPTED},
    refusal=refusal,
)


class RetryingSender:
    """Sends the calls of one client. `clock` is monotonic, in seconds."""

    def __init__(self, retries: Retries, clock: Callable[[], float]) -> None:
        self.retries = retries
        self._clock = clock

    def with_retries(self, retries: Retries) -> "RetryingSender":
        """A sender with the same clock for calls that are sent again otherwise."""
        return RetryingSender(retries, self._clock)

    def deadline(self, timeout_s: float) -> Deadline:
        """The end of a call that begins now."""
        return Deadline(self._clock, timeout_s)

    def answered(
        self, making: Callable[[], Send], deadline: Deadline, *, key: str | None = None, form: ReplyForm = V1_FORM
    ) -> Steps[HttpReply]:
        """Send until an answer comes that is no refusal, or one that no retry mends, or time or retries are used up.

        Raises:
            CallError: no such answer came; it says why.
        """
        attempt = 0
        while True:
            send = making()
            outcome = yield replace(send, timeout_s=_exchange_s(deadline.left_s()))
            if isinstance(outcome, HttpReply) and form.is_answer(outcome):
                return outcome
            error = error_of(send, outcome, deadline, key, form)
            delay_s = self.retries.delay_s(attempt, error.retry_after_s)
            if not error.retryable or attempt >= self.retries.limit or delay_s >= deadline.left_s():
                raise error
            yield Pause(delay_s)
            attempt += 1


def _exchange_s(left_s: float) -> float:
    return min(max(_SHORTEST_EXCHANGE_S, left_s), _LONGEST_EXCHANGE_S)


def error_of(send: Send, outcome: Outcome, deadline: Deadline, key: str | None, form: ReplyForm) -> CallError:
    """The error of a call that was sent and got no answer, but this outcome."""
    if isinstance(outcome, HttpReply):
        error = form.refusal(outcome.status, outcome.headers, outcome.body)
        return type(error)(replace(error.problem, idempotency_key=key))
    reason = outcome.reason if outcome else "nothing was sent"
    what = f"{send.method} {send.path} got no answer"
    if outcome and outcome.has_timed_out:
        return timed_out(what, deadline, key=key)
    return ConnectionFailed(
        ProblemDetails(
            code="connection_failed",
            title="No answer came",
            detail=f"{what}: {reason}",
            retryable=outcome is not None and outcome.retryable,
            idempotency_key=key,
        )
    )


def timed_out(what: str, deadline: Deadline, *, key: str | None, request_id: str | None = None) -> TimedOut:
    """The error of a call whose time ran out; `what` says what was not there."""
    return TimedOut(
        ProblemDetails(
            code="timed_out",
            title="The time of the call ran out",
            detail=f"{what} within {deadline.timeout_s:g} s; a request that was accepted goes on",
            request_id=request_id,
            idempotency_key=key,
        )
    )


def prediction_path(request_id: str) -> str:
    """Where the state and the result of a request are."""
    return f"/v1/predictions/{quote(request_id, safe='')}"

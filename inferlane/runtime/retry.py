"""Retry for as long as a dependency is unavailable."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

import structlog

from inferlane.errors import NotServedError, UnavailableError

_T = TypeVar("_T")

log = structlog.get_logger(__name__)

# Too short overloads a part that is just coming back, too long keeps clients waiting after it is back.
_FIRST_RETRY_S = 0.05
_LONGEST_RETRY_S = 5.0


def back_off(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield how long to wait before each next try, without end: doubling from `first_s` to `longest_s`, with jitter.

    The jitter keeps processes that lost the same part from returning all at once.
    """
    wait_s = first_s
    while True:
        yield wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        wait_s = min(wait_s * 2, longest_s)


class Retrier:
    """Repeats calls that failed with `UnavailableError`, and only those; one for each process. One event loop.

    `error_remedies` decides which errors of Kafka and the store become one. `NotServedError` is not repeated.
    """

    def __init__(self) -> None:
        self._retrying = 0

    @property
    def is_retrying(self) -> bool:
        """Whether some call waits for an unavailable part: a consumer without progress is then not stuck."""
        return self._retrying > 0

    async def until_done(self, call: Callable[[], Awaitable[_T]], *, stage: str) -> _T:
        """Call until it succeeds, and return the result; cancelling ends the retries. `stage` is its name in logs."""
        waits = back_off(_FIRST_RETRY_S, _LONGEST_RETRY_S)
        has_failed = False
        try:
            while True:
                try:
                    return await call()
                except NotServedError:
                    raise
                except UnavailableError as error:
                    wait_s = next(waits)
                    log.warning("call_retried", stage=stage, retry_s=round(wait_s, 3), error=str(error))
                    self._retrying += not has_failed
                    has_failed = True
                await asyncio.sleep(wait_s)
        finally:
            self._retrying -= has_failed


class Clock(Protocol):
    def now_s(self) -> float:
        """Seconds since the Unix epoch, comparable between machines up to their clock skew."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back, comparable within this process only."""
        ...


class SystemClock:
    """The machine's clocks."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)

"""Trying again for as long as a part that we depend on is away."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog

from inferlane.errors import NotServedError, UnavailableError

_T = TypeVar("_T")

log = structlog.get_logger(__name__)

# Too short hammers a part that is just coming back, too long leaves clients waiting for one that is back.
_FIRST_RETRY_S = 0.05
_LONGEST_RETRY_S = 5.0


class Retrier:
    """Repeats calls that failed with `UnavailableError`, and only those; one for each process. One event loop.

    `mending` decides which errors of Kafka and the store become one. `NotServedError` is not repeated.
    """

    def __init__(self) -> None:
        self._retrying = 0

    @property
    def is_retrying(self) -> bool:
        """Whether some call waits for a part that is away: whoever stands still then is not stuck."""
        return self._retrying > 0

    async def until_done(self, call: Callable[[], Awaitable[_T]], *, stage: str) -> _T:
        """Return what `call` returns once it does; cancelling ends the tries. `stage` names the call in the log.

        The waits double from 50 ms to 5 s, with jitter: processes that lost the same store must not come back in step.
        """
        try:
            return await call()
        except NotServedError:
            raise
        except UnavailableError as error:
            failure = error
        self._retrying += 1
        try:
            return await self._keep_trying(call, stage, failure)
        finally:
            self._retrying -= 1

    async def _keep_trying(self, call: Callable[[], Awaitable[_T]], stage: str, failure: UnavailableError) -> _T:
        delay_s = _FIRST_RETRY_S
        while True:
            log.warning("call_retried", stage=stage, retry_s=round(delay_s, 3), error=str(failure))
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            try:
                return await call()
            except NotServedError:
                raise
            except UnavailableError as error:
                failure = error
            delay_s = min(delay_s * 2, _LONGEST_RETRY_S)


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

"""When waits end: many of them share a timer, because one for each costs more than the rest of the wait."""

import asyncio
from typing import Protocol

from inferlane.contracts.results import Result

# Waits from `_SHARED_FROM_S` on end at a multiple of this, so as much later. Smaller shares a timer among fewer waits,
# larger lets more calls go on in one moment.
_STEP_S = 0.05
_SHARED_FROM_S = 1.0


class Resolvable(Protocol):
    """What waits for a result: a future, or what is resolved like one."""

    def done(self) -> bool:
        """Return whether it is resolved."""
        ...

    def set_result(self, result: Result | None, /) -> None:
        """Resolve it: with the result, or with None if the wait ran out."""
        ...


WaitEnd = set[Resolvable]
"""The waits that end with one timer. Discard a waiter from it to keep it from being resolved."""


class WaitLimits:
    """Resolves waiters with None when their time is over, never before. One event loop."""

    def __init__(self) -> None:
        self._steps: dict[int, WaitEnd] = {}
        # Asked for once: Python makes a system call for each `get_running_loop`.
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, waiter: Resolvable, wait_s: float) -> WaitEnd:
        """Resolve the waiter after `wait_s`, and up to 50 ms later where that is a second or more."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if wait_s < _SHARED_FROM_S:
            alone: WaitEnd = {waiter}
            loop.call_later(wait_s, _end, alone)
            return alone
        # Rounded up, so that no wait ends early.
        step = int((loop.time() + wait_s) / _STEP_S) + 1
        waiters = self._steps.get(step)
        if waiters is None:
            waiters = self._steps[step] = set()
            loop.call_at(step * _STEP_S, self._end_step, step)
        waiters.add(waiter)
        return waiters

    def _end_step(self, step: int) -> None:
        _end(self._steps.pop(step))


def _end(waiters: WaitEnd) -> None:
    for waiter in tuple(waiters):
        if not waiter.done():
            waiter.set_result(None)

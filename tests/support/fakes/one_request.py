"""A store that knows of one request, and a clock that agrees with the timers of the event loop."""

import asyncio

from inferlane.contracts.results import Accepted, Result
from inferlane.errors import UnavailableError
from tests.support.fakes.clock import FakeClock

ACCEPTED_S = 1_700_000_000.0


class OneRequestStore:
    """One request, as the store of results keeps it."""

    def __init__(self, known: Result | Accepted | None) -> None:
        self.known = known
        self.reads = asyncio.Semaphore(0)
        self.is_away = False

    async def find(self, _key: str) -> Result | Accepted | None:
        self.reads.release()
        if self.is_away:
            raise UnavailableError("away")
        return self.known

    async def put(self, results: list[Result]) -> list[Result]:
        if not isinstance(self.known, Result):
            (self.known,) = results
        return [self.known]


class LoopClock(FakeClock):
    """Wall clock and monotonic clock of the event loop, so that its timers agree with it."""

    def now_s(self) -> float:
        return ACCEPTED_S + asyncio.get_running_loop().time()

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

"""Tasks that sleep on a clock which jumps to the next moment as soon as nobody has anything left to do."""

import asyncio
import heapq
import itertools

from tests.support.fakes.clock import FakeClock

# Turns of the event loop after which every task waits for time to pass; a wake-up takes one or two.
_SETTLED_AFTER_TURNS = 20


class VirtualTime(FakeClock):
    """A fake clock that tasks can sleep on; `run_until_idle` moves it."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed on this clock."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s() + seconds, next(self._order), future))
        await future

    async def run_until_idle(self) -> None:
        """Move the clock from one sleeper to the next until nobody sleeps any more."""
        while True:
            for _ in range(_SETTLED_AFTER_TURNS):
                await asyncio.sleep(0)
            if not self._sleepers:
                return
            at_s, _, future = heapq.heappop(self._sleepers)
            self.advance(at_s - self.now_s())
            if not future.done():
                future.set_result(None)

"""Whose turn it is to infer: waiting clients first, bulk its fair share."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from inferlane.naming import Lane

if TYPE_CHECKING:
    from inferlane.clock import Clock


class FairShare:
    """The rule, pure: bulk is due when it has had less than its share of the time since it began to wait."""

    def __init__(self, bulk_share: float) -> None:
        self._bulk_share = bulk_share
        self._used_s = dict.fromkeys(Lane, 0.0)

    def next_lane(self, waiting: frozenset[Lane] | set[Lane]) -> Lane:
        """The lane that goes next, of those that wait."""
        if Lane.REQUESTS not in waiting:
            # Nobody competed, so nothing is owed: an idle bulk lane must not save up for a rush.
            self._used_s = dict.fromkeys(Lane, 0.0)
            return Lane.BULK
        if Lane.BULK not in waiting:
            return Lane.REQUESTS
        total_s = sum(self._used_s.values())
        due = self._used_s[Lane.BULK] < self._bulk_share * total_s
        return Lane.BULK if due else Lane.REQUESTS

    def note(self, lane: Lane, used_s: float, *, contended: bool) -> None:
        """Count a turn; turns that nobody else wanted do not count against anybody."""
        if contended:
            self._used_s[lane] += used_s


class Turnstile:
    """Lets one batch at a time through to the model, in the order of `FairShare`. One event loop."""

    def __init__(self, *, bulk_share: float, clock: "Clock") -> None:
        self._share = FairShare(bulk_share)
        self._clock = clock
        self._busy = False
        # When the first of those that wait now began to.
        self._wanted_since_s = 0.0
        self._queues: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}

    @property
    def is_wanted_by_clients(self) -> bool:
        """Whether somebody waits for a turn whose client waits for an answer. May be asked from any thread."""
        return bool(self._queues[Lane.REQUESTS])

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """Hold the model while the block runs."""
        await self._enter(lane)
        started_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            contended = any(self._queues.values())
            # A turn may be long: only the part of it counts that somebody else wanted.
            since_s = max(started_s, self._wanted_since_s)
            self._share.note(lane, self._clock.monotonic_s() - since_s, contended=contended)
            self._pass_on()

    async def _enter(self, lane: Lane) -> None:
        if not self._busy:
            self._busy = True
            return
        if not any(self._queues.values()):
            self._wanted_since_s = self._clock.monotonic_s()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[lane].append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()
            else:
                self._queues[lane].remove(place)
            raise

    def _pass_on(self) -> None:
        waiting = {lane for lane, queue in self._queues.items() if queue}
        if not waiting:
            self._busy = False
            return
        self._queues[self._share.next_lane(waiting)].popleft().set_result(None)

"""Which lane infers next: waiting clients first, and bulk its share of the time that both want."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from inferlane.contracts.naming import Lane

if TYPE_CHECKING:
    from inferlane.runtime.retry import Clock


class BulkCredit:
    """The rule, pure: a weighted deficit scheduler of two lanes whose credit is bounded on both sides.

    While bulk waits, each second of a client's turn earns it `share / (1 - share)` seconds. Bulk is due while it has
    credit, and pays with the time that clients wait for it. No lane saves up: bulk earns only while it waits, has at
    most what one client turn earns, and owes at most one of its own turns. So a client waits behind bulk for one bulk
    turn and the share of one client turn, whatever happened before.
    Source of the idea: Shreedhar and Varghese, Efficient Fair Queuing Using Deficit Round-Robin, 1996.
    """

    def __init__(self, bulk_share: float) -> None:
        """`bulk_share` is between 0 (bulk runs when no client waits) and 1 (clients run when no bulk waits)."""
        self._earned_a_second = bulk_share / (1 - bulk_share) if bulk_share < 1 else math.inf
        # Seconds that bulk may run although clients wait; below 0 are those that it ran too many.
        self._credit_s = 0.0

    def next_lane(self, waiting: frozenset[Lane] | set[Lane]) -> Lane:
        """The lane that goes next, of those that wait."""
        if Lane.REQUESTS not in waiting:
            # Nobody competes, so nobody owes anything.
            self._credit_s = 0.0
            return Lane.BULK
        return Lane.BULK if Lane.BULK in waiting and self._credit_s > 0 else Lane.REQUESTS

    def note(self, lane: Lane, used_s: float, *, contended_s: float) -> None:
        """Note a turn of `used_s`; during `contended_s` of it the other lane waited."""
        if lane is Lane.BULK:
            self._credit_s -= contended_s
            return
        # What bulk did not use of its credit is void. A debt is paid off also while bulk does not wait.
        debt_s = min(0.0, self._credit_s)
        if uncontended_s := used_s - contended_s:
            debt_s = min(0.0, debt_s + uncontended_s * self._earned_a_second)
        self._credit_s = debt_s + (contended_s * self._earned_a_second if contended_s else 0.0)


class LaneScheduler:
    """Lets one turn at a time through to the model: in the order of `BulkCredit`, first come first served in a lane.

    One event loop.
    """

    def __init__(self, *, bulk_share: float, clock: "Clock") -> None:
        self._credit = BulkCredit(bulk_share)
        self._clock = clock
        self._busy = False
        self._queues: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        # Since when somebody of that lane has waited without a break.
        self._waiting_since_s = dict.fromkeys(Lane, 0.0)

    @property
    def has_waiting_client(self) -> bool:
        """Whether a client's request waits for a turn. May be asked from any thread."""
        return bool(self._queues[Lane.REQUESTS])

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """Hold the model while the block runs."""
        await self._enter(lane)
        started_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            ended_s = self._clock.monotonic_s()
            other = Lane.BULK if lane is Lane.REQUESTS else Lane.REQUESTS
            wanted_since_s = max(started_s, self._waiting_since_s[other]) if self._queues[other] else ended_s
            self._credit.note(lane, ended_s - started_s, contended_s=ended_s - wanted_since_s)
            self._release()

    async def _enter(self, lane: Lane) -> None:
        if not self._busy:
            self._busy = True
            return
        queue = self._queues[lane]
        if not queue:
            self._waiting_since_s[lane] = self._clock.monotonic_s()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._release()
            else:
                with suppress(ValueError):
                    queue.remove(place)
            raise

    def _release(self) -> None:
        if any(self._queues.values()):
            # Decided when everybody has had a chance to ask: a lane of one sender, which asks again as soon as its turn
            # is over, would else never seem to wait.
            asyncio.get_running_loop().call_soon(self._pass_on)
        else:
            self._busy = False

    def _pass_on(self) -> None:
        for queue in self._queues.values():
            # Whoever was cancelled has not had the time to leave.
            while queue and queue[0].done():
                queue.popleft()
        waiting = {lane for lane, queue in self._queues.items() if queue}
        if not waiting:
            self._busy = False
            return
        self._queues[self._credit.next_lane(waiting)].popleft().set_result(None)

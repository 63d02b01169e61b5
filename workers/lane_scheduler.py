"""Choose the lane that infers next: waiting clients first, bulk for its share of the time that both lanes want."""

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
    """The rule: a weighted deficit scheduler of two lanes whose credit is bounded on both sides. No I/O.

    While bulk waits, each second of a turn of the requests lane earns it `share / (1 - share)` seconds of credit. Bulk
    goes next while it has credit, and pays with the time that clients wait for it. Credit is not saved up: bulk earns
    only while it waits, has at most what one turn of the requests lane earns, and owes at most one turn of its own. So
    a client waits at most for one bulk turn and the share of one requests turn, whatever happened before.
    Source of the idea: Shreedhar and Varghese, Efficient Fair Queuing Using Deficit Round-Robin, 1996.
    """

    def __init__(self, bulk_share: float) -> None:
        """`bulk_share` is from 0 (bulk runs only when no client waits) to 1 (clients run only when no bulk waits)."""
        self._earned_a_second = bulk_share / (1 - bulk_share) if bulk_share < 1 else math.inf
        # Seconds that bulk may run although clients wait; negative if it ran for longer than it earned.
        self._credit_s = 0.0

    def next_lane(self, waiting: frozenset[Lane] | set[Lane]) -> Lane:
        """The waiting lane that goes next."""
        if Lane.REQUESTS not in waiting:
            # Without competition there is no debt.
            self._credit_s = 0.0
            return Lane.BULK
        return Lane.BULK if Lane.BULK in waiting and self._credit_s > 0 else Lane.REQUESTS

    def note(self, lane: Lane, used_s: float, *, contended_s: float) -> None:
        """Note a turn of `used_s` seconds; the other lane waited during `contended_s` of them."""
        if lane is Lane.BULK:
            self._credit_s -= contended_s
            return
        # Unused credit expires. A debt is also paid off while bulk does not wait.
        debt_s = min(0.0, self._credit_s)
        if uncontended_s := used_s - contended_s:
            debt_s = min(0.0, debt_s + uncontended_s * self._earned_a_second)
        self._credit_s = debt_s + (contended_s * self._earned_a_second if contended_s else 0.0)


class LaneScheduler:
    """Gives the model to one turn at a time: the lane by `BulkCredit`, first come first served within a lane.

    One event loop.
    """

    def __init__(self, *, bulk_share: float, clock: "Clock") -> None:
        self._credit = BulkCredit(bulk_share)
        self._clock = clock
        self._busy = False
        self._queues: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        # Since when the queue of a lane has not been empty.
        self._waiting_since_s = dict.fromkeys(Lane, 0.0)

    @property
    def has_waiting_client(self) -> bool:
        """Whether the requests lane waits for a turn. May be read from any thread."""
        return bool(self._queues[Lane.REQUESTS])

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """Wait for a turn and hold the model while the block runs."""
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
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release()
            else:
                with suppress(ValueError):
                    queue.remove(waiter)
            raise

    def _release(self) -> None:
        if any(self._queues.values()):
            # Decide in the next iteration of the loop: a lane with one sender, which asks again as soon as its turn is
            # over, would otherwise never seem to wait.
            asyncio.get_running_loop().call_soon(self._pass_on)
        else:
            self._busy = False

    def _pass_on(self) -> None:
        for queue in self._queues.values():
            # A cancelled waiter may not have left the queue yet.
            while queue and queue[0].done():
                queue.popleft()
        waiting = {lane for lane, queue in self._queues.items() if queue}
        if not waiting:
            self._busy = False
            return
        self._queues[self._credit.next_lane(waiting)].popleft().set_result(None)

"""Choose the lane that infers next: waiting clients first, bulk for its share of the time that both lanes want."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferlane.contracts.naming import Lane

if TYPE_CHECKING:
    from inferlane.runtime.retry import Clock


class BulkCredit:
    """The rule of lanes: a weighted deficit scheduler of two lanes whose credit is bounded on both sides. No I/O.

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
        """Return the waiting lane that goes next."""
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


class FairQueue:
    """The waiting turns of a lane: the version that has used the least time goes first. Used from one event loop.

    An idle version does not save up its share: it starts with the time that the running version had used when its turn
    began. So it waits for the current run, and at most for one turn of each version that has used no more time.
    Source of the idea: Goyal, Vin and Cheng, Start-time Fair Queuing, 1996.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._used_s: dict[str, float] = {}
        # The time that the version of the last turn had used before that turn.
        self._floor_s = 0.0
        self._waiting = 0

    def __len__(self) -> int:
        """Return the number of waiting turns; cancelled ones count until they have left."""
        return self._waiting

    def push(self, version: str, waiter: "asyncio.Future[None]") -> None:
        """Add a turn behind the others of its version."""
        self._lines.setdefault(version, deque()).append(waiter)
        self._waiting += 1

    def pop(self) -> "asyncio.Future[None]":
        """Remove and return the next turn."""
        version = min(self._lines, key=self._spent)
        return self._left(version, self._lines[version].popleft())

    def remove(self, version: str, waiter: "asyncio.Future[None]") -> None:
        """Remove a turn that no longer waits, if it is in the queue."""
        line = self._lines.get(version)
        if line is not None and waiter in line:
            line.remove(waiter)
            self._left(version, waiter)

    def drop_cancelled(self) -> None:
        """Remove cancelled turns that have not left yet."""
        for version, line in list(self._lines.items()):
            for waiter in [waiter for waiter in line if waiter.done()]:
                line.remove(waiter)
                self._left(version, waiter)

    def begin(self, version: str) -> None:
        """Note that a turn of the version begins."""
        self._floor_s = self._used_s[version] = self._spent(version)

    def note(self, version: str, used_s: float) -> None:
        """Note the duration of the turn that the version has begun, in seconds."""
        self._used_s[version] += used_s

    def _spent(self, version: str) -> float:
        return max(self._used_s.get(version, 0.0), self._floor_s)

    def _left(self, version: str, waiter: "asyncio.Future[None]") -> "asyncio.Future[None]":
        self._waiting -= 1
        if not self._lines[version]:
            del self._lines[version]
        return waiter


# How long clients count as being about after the last turn of their lane. Shorter forgets a client between two of its
# requests, longer makes bulk yield to nobody.
_CLIENTS_ABOUT_S = 1.0


class LaneScheduler:
    """Gives the processor to one turn at a time: the lane by `BulkCredit`, and within it the version by `FairQueue`.

    Turns of one version in one lane are first come first served. Used from one event loop.
    """

    def __init__(self, *, bulk_share: float, clock: "Clock") -> None:
        self._credit = BulkCredit(bulk_share)
        self._clock = clock
        self._busy = False
        self._queues = {lane: FairQueue() for lane in Lane}
        # When a client last asked for a turn.
        self._client_s = -math.inf
        # Since when the queue of a lane has not been empty.
        self._waiting_since_s = dict.fromkeys(Lane, 0.0)

    @property
    def has_waiting_client(self) -> bool:
        """Whether the requests lane waits for a turn. May be read from any thread."""
        return bool(self._queues[Lane.REQUESTS])

    @property
    def has_clients_about(self) -> bool:
        """Whether a client asked for a turn in the last second, so that another one may come at any time."""
        return self._clock.monotonic_s() - self._client_s < _CLIENTS_ABOUT_S

    @asynccontextmanager
    async def turn(self, lane: Lane, version: str = "") -> AsyncIterator[None]:
        """Wait for a turn and hold the processor while the block runs."""
        if lane is Lane.REQUESTS:
            self._client_s = self._clock.monotonic_s()
        await self._enter(lane, version)
        queue = self._queues[lane]
        queue.begin(version)
        started_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            ended_s = self._clock.monotonic_s()
            other = Lane.BULK if lane is Lane.REQUESTS else Lane.REQUESTS
            wanted_since_s = max(started_s, self._waiting_since_s[other]) if self._queues[other] else ended_s
            self._credit.note(lane, ended_s - started_s, contended_s=ended_s - wanted_since_s)
            queue.note(version, ended_s - started_s)
            self._release()

    async def _enter(self, lane: Lane, version: str) -> None:
        if not self._busy:
            self._busy = True
            return
        queue = self._queues[lane]
        if not queue:
            self._waiting_since_s[lane] = self._clock.monotonic_s()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.push(version, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release()
            else:
                queue.remove(version, waiter)
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
            queue.drop_cancelled()
        waiting = {lane for lane, queue in self._queues.items() if queue}
        if not waiting:
            self._busy = False
            return
        self._queues[self._credit.next_lane(waiting)].pop().set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The processor that the versions of a process share: their turns, and the thread for long runs."""

    scheduler: LaneScheduler
    executor: ThreadPoolExecutor


def inference_thread() -> ThreadPoolExecutor:
    """Return the thread for runs that take too long for the event loop."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")

"""When requests are sent: at a constant rate whatever the server does (open), or one after the other (closed)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

# Sends request `index`, which was due at `due_s` on the `time.perf_counter` clock. Records its own outcome and
# raises nothing for a request that fails.
Send = Callable[[int, float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSchedule:
    """Arrivals at constant spacing, fixed before the run, so that a slow server cannot slow them down."""

    rate_per_s: float
    duration_s: float

    @property
    def count(self) -> int:
        # The small term keeps 0.1 s at 30/s at 3 arrivals: floats make it 2.9999….
        return max(1, int(self.rate_per_s * self.duration_s + 1e-9))

    def offset_s(self, index: int) -> float:
        """Return when arrival `index` is due, in seconds from the start; a product, so that no error adds up."""
        return index / self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLimit:
    """The end of a closed run: whichever of the two comes first."""

    requests: int
    duration_s: float
    concurrency: int


async def send_open(
    schedule: OpenSchedule, send: Send, *, max_outstanding: int, on_overflow: Callable[[], None]
) -> None:
    """Start every arrival when it is due and return when the last one has its outcome.

    An arrival that finds `max_outstanding` requests without an answer is not sent: `on_overflow` is called for it.
    """
    outstanding = 0

    def release(_: asyncio.Task[None]) -> None:
        nonlocal outstanding
        outstanding -= 1

    async def start(index: int, due_s: float) -> None:
        await send(index, due_s)

    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for index in range(schedule.count):
            due_s = start_s + schedule.offset_s(index)
            # Also when it is already due: requests under way must get their turn or all would seem outstanding.
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            if outstanding >= max_outstanding:
                on_overflow()
                continue
            outstanding += 1
            # A timer of uvloop counts in milliseconds and may fire up to half of one early; that is no latency.
            task = group.create_task(start(index, min(due_s, time.perf_counter())))
            task.add_done_callback(release)


async def send_closed(limit: ClosedLimit, send: Send) -> None:
    """Keep `concurrency` requests under way; each is due when the one before it has its outcome."""
    deadline_s = time.perf_counter() + limit.duration_s
    indexes = itertools.count()

    async def send_in_turn() -> None:
        while time.perf_counter() < deadline_s and (index := next(indexes)) < limit.requests:
            await send(index, time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(min(limit.concurrency, limit.requests)):
            group.create_task(send_in_turn())

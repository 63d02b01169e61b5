"""Pending requests: calls that wait for a result. A wake-up makes them fast, and reading the store makes them sure."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.results import Result, decode_wake_up
from inferlane.errors import DecodeError, InferlaneError, OverloadedError, UnavailableError
from inferlane.runtime.metrics.api_metrics import WAITING
from inferlane.runtime.redis.cancellations import Listener, follow_channel
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.service import essential
from producer_api.predict.wait_limits import Resolvable, WaitEnd, WaitLimits

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

Waiter = asyncio.Future["Result | None"]
"""Resolved with the result, or with None when the wait ran out."""

# How often the results of all waiters are read. Pub/sub may lose a message; this bounds the delay that follows.
_TICK_S = 1.0
_READ_AT_ONCE = 500


class PendingRequests:
    """The waiters of one API instance. One event loop."""

    def __init__(self, store: ResultStore, redis: "Redis", *, instance: str, max_waiters: int) -> None:
        self.instance = instance
        self.store = store
        self._redis = redis
        self._max_waiters = max_waiters
        self._waiters: dict[str, list[Resolvable]] = {}
        self._count = 0
        self._limits = WaitLimits()
        self._tasks: list[asyncio.Task[None]] = []
        self._subscribed = asyncio.Event()
        WAITING.set_function(lambda: self._count)

    @property
    def is_running(self) -> bool:
        """Whether the tasks run that receive wake-ups and read results."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def is_subscribed(self) -> bool:
        """Whether this instance is subscribed to its wake-ups now."""
        return self._subscribed.is_set()

    async def start(self, *, timeout_s: float = 10.0) -> None:
        """Subscribe to wake-ups, and return once the subscription is confirmed.

        Raises:
            UnavailableError: the store did not answer within `timeout_s`.
        """
        channel = self.store.wake_up_channel(self.instance)
        listener = Listener(on_open=self._on_subscribed, on_message=self._on_wake_up, on_lost=self._subscribed.clear)
        self._tasks = [
            asyncio.create_task(follow_channel(self._redis, channel, listener), name="wake-ups"),
            asyncio.create_task(self._poll_results(), name="results"),
        ]
        for task in self._tasks:
            essential(task)
        try:
            async with asyncio.timeout(timeout_s):
                await self._subscribed.wait()
        except TimeoutError as error:
            await self.close()
            raise UnavailableError(f"the result store did not answer within {timeout_s} s") from error

    async def close(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def register(self, key: str, waiter: Resolvable) -> None:
        """Add this waiter for the result that the store keeps under `key`; `remove` must follow.

        Each waiter counts, also if several wait for one result.

        Raises:
            OverloadedError: the limit of waiters is reached.
        """
        if self._count >= self._max_waiters:
            raise OverloadedError(
                f"{self._count} calls wait in this process, the limit is {self._max_waiters}; "
                "send again later, or submit with `Prefer: respond-async`"
            )
        self._waiters.setdefault(key, []).append(waiter)
        self._count += 1

    def remove(self, key: str, waiter: Resolvable) -> None:
        """Remove the waiter."""
        waiters = self._waiters[key]
        waiters.remove(waiter)
        self._count -= 1
        if not waiters:
            del self._waiters[key]

    async def wait(self, waiter: Waiter, wait_s: float) -> Result | None:
        """Return the result, or None when `wait_s` ran out first.

        Raises:
            UnavailableError: the request could not be enqueued (set on the waiter by whoever produced it).
        """
        end = self.end_after(waiter, wait_s)
        try:
            return await waiter
        finally:
            end.discard(waiter)

    def end_after(self, waiter: Resolvable, wait_s: float) -> WaitEnd:
        """Resolve the waiter with None after `wait_s`, unless it is discarded from what is returned by then."""
        return self._limits.add(waiter, wait_s)

    def _settle(self, results: Sequence[Result | None]) -> None:
        for result in results:
            if result is not None:
                # A copy: a waiter that goes on at once removes itself.
                for waiter in tuple(self._waiters.get(result.key, ())):
                    if not waiter.done():
                        waiter.set_result(result)

    async def _on_wake_up(self, message: bytes) -> None:
        try:
            carried = decode_wake_up(message)
        except DecodeError as error:
            log.warning("wake_up_undecodable", error=str(error))
            return
        self._settle(carried)
        if not carried:
            # The results were too large for the message, so they are read from the store.
            await self._read_results()

    async def _on_subscribed(self) -> None:
        # Wake-ups that were published while the subscription was down are lost: read the results instead.
        await self._read_results()
        self._subscribed.set()

    async def _poll_results(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            with suppress(InferlaneError):
                await self._read_results()

    async def _read_results(self) -> None:
        waiting = list(self._waiters)
        for start in range(0, len(waiting), _READ_AT_ONCE):
            self._settle(await self.store.get(waiting[start : start + _READ_AT_ONCE]))


# A model may hold this multiple of the free slots: 4/5 of all slots alone, 4/9 each beside another busy model. Too
# small leaves slots unused that one model could use; too large leaves few to models that start later.
_TIMES_FREE = 4


class WaiterQuotas:
    """Divides the slots for waiting calls among the models, so that no model takes all of them.

    Source: Choudhury and Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: dict[str, int] = {}
        self._taken = 0

    def acquire(self, model: str) -> None:
        """Take a slot for a call of the model; `release` must follow.

        Raises:
            OverloadedError: the model has used its quota, or every slot is taken.
        """
        held, free = self._held.get(model, 0), self._slots - self._taken
        if free <= 0 or held >= _TIMES_FREE * free:
            raise OverloadedError(
                f"{held} calls of {model} wait in this process, of {self._taken} in all and {self._slots} at most "
                "(INFERLANE_MAX_WAITING_REQUESTS), so that others find room; send again later, or submit with "
                "`Prefer: respond-async`"
            )
        self._held[model] = held + 1
        self._taken += 1

    def release(self, model: str) -> None:
        """Release the slot of a call that no longer waits."""
        self._held[model] -= 1
        self._taken -= 1
        if not self._held[model]:
            del self._held[model]


@asynccontextmanager
async def answer_within(seconds: float, late: UnavailableError) -> AsyncIterator[None]:
    """Run the block with a time limit.

    Raises:
        UnavailableError: `late`, if the block has not ended in time; the block is cancelled.
    """
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            yield
    except TimeoutError as error:
        raise late from error


def store_is_late(seconds: float, *, done: str) -> UnavailableError:
    """Return the error of a call for which the store took too long; `done` says what follows for the request."""
    return UnavailableError(f"the result store did not answer within the {seconds:.1f} s of this call; {done}")

"""Waits for results that end with the wait of the call or with the deadline of the request, whichever comes first."""

import asyncio
import math
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING

from inferlane.contracts.results import Accepted, Result
from inferlane.errors import UnavailableError
from producer_api.predict.cancellation import ClientDisconnect, accepted_headers
from producer_api.predict.pending import WaiterQuotas

if TYPE_CHECKING:
    from inferlane.runtime.retry import Clock
    from producer_api.predict.pending import PendingRequests, Waiter
    from producer_api.predict.wait_limits import Resolvable, WaitEnd

# Timers of the event loop may end a millisecond early, and the deadline must have passed when a wait for it ends. Too
# large delays each EXPIRED.
_TIMER_SLACK_S = 0.005


class RegisteredWaiter:
    """A waiter that is registered while the block runs; a generator instead would cost each call three times that."""

    __slots__ = ("_key", "_model", "_waiter", "_waits")

    def __init__(self, waits: "ResultWaits", *, model: str, key: str) -> None:
        self._waits = waits
        self._model = model
        self._key = key
        self._waiter: Waiter = asyncio.get_running_loop().create_future()

    def __enter__(self) -> "Waiter":
        self._waits.register(self._waiter, model=self._model, key=self._key)
        return self._waiter

    def __exit__(self, *_: object) -> None:
        self._waits.remove(self._waiter, model=self._model, key=self._key)


class ResultWaits:
    """Waits for results within the quotas of the models. One event loop.

    A request whose deadline has passed without a result ends `EXPIRED` when a wait for it ends, because no later result
    may be worth anything and no worker may ever reach its record.
    """

    def __init__(self, pending: "PendingRequests", *, clock: "Clock", slots: int) -> None:
        self.quotas = WaiterQuotas(slots)
        self._pending = pending
        self._clock = clock

    def waiter(self, model: str, key: str) -> "RegisteredWaiter":
        """Return a context in which a waiter for the result that the store keeps under `key` is registered.

        Entering it raises `OverloadedError` where too many calls of the model, or of all, wait in this process.
        """
        return RegisteredWaiter(self, model=model, key=key)

    def register(self, waiter: "Resolvable", *, model: str, key: str) -> None:
        """Register this waiter for the result that the store keeps under `key`; `remove` must follow.

        Raises:
            OverloadedError: too many calls of the model, or of all, wait in this process.
        """
        self.quotas.acquire(model)
        try:
            self._pending.register(key, waiter)
        except BaseException:
            self.quotas.release(model)
            raise

    def remove(self, waiter: "Resolvable", *, model: str, key: str) -> None:
        """Remove a registered waiter."""
        self._pending.remove(key, waiter)
        self.quotas.release(model)

    def end_at(self, waiter: "Resolvable", *, until_s: float, deadline_s: float) -> "WaitEnd":
        """Resolve the waiter with None once `until_s` (monotonic) or the request's deadline (wall clock) has passed."""
        return self._pending.end_after(waiter, self._left_s(until_s=until_s, deadline_s=deadline_s))

    def until(self, waiter: "Waiter", *, until_s: float, deadline_s: float) -> Awaitable[Result | None]:
        """Wait for the result; None once `until_s` (monotonic) or the request's deadline (wall clock) has passed."""
        return self._pending.wait(waiter, self._left_s(until_s=until_s, deadline_s=deadline_s))

    async def look(self, waiter: "Waiter", *, until_s: float, deadline_s: float) -> Result | None:
        """As `until`, but the waiter stays registered and unresolved when the time is over, to be waited for again."""
        await asyncio.wait({waiter}, timeout=self._left_s(until_s=until_s, deadline_s=deadline_s))
        return waiter.result() if waiter.done() else None

    def _left_s(self, *, until_s: float, deadline_s: float) -> float:
        left_s = deadline_s - self._clock.now_s() + _TIMER_SLACK_S
        return max(0.0, min(until_s - self._clock.monotonic_s(), left_s))

    async def wait(
        self, request_id: str, *, key: str, model: str, until_s: float, disconnect: ClientDisconnect | None = None
    ) -> Result | Accepted | None:
        """Return what `read` does, as soon as there is a result, the deadline has passed, or `until_s` has passed.

        A `disconnect` ends the wait too. Any replica may wait: the deadline is read from the mark of
        acceptance.

        Raises:
            OverloadedError: too many calls wait in this process.
            UnavailableError: the store does not answer.
        """
        with self.waiter(model, key) as waiter:
            if disconnect is not None:
                disconnect.resolves(waiter)
            known: Result | Accepted | None = None
            with suppress(UnavailableError):
                known = await self.read(request_id, key=key)
            if isinstance(known, Result):
                return known
            deadline_s = math.inf if known is None else known.deadline_s
            result = await self.until(waiter, until_s=until_s, deadline_s=deadline_s)
        return await self.read(request_id, key=key) if result is None else result

    async def read(self, request_id: str, *, key: str) -> Result | Accepted | None:
        """Return the result, else the mark of acceptance, else None; end a request whose deadline has passed.

        Raises:
            UnavailableError: the store does not answer.
        """
        return await self.expire(request_id, await self._pending.store.find(key), key=key)

    async def expire(self, request_id: str, known: Result | Accepted | None, *, key: str) -> Result | Accepted | None:
        """Return `known`, or the result `EXPIRED` if it is the mark of a request whose deadline has passed.

        A result that was stored meanwhile is returned instead.

        Raises:
            UnavailableError: the store does not answer.
        """
        now_s = self._clock.now_s()
        if not isinstance(known, Accepted) or now_s <= known.deadline_s:
            return known
        (held,) = await self._pending.store.put([Result.expired(accepted_headers(request_id, key, known), now_s=now_s)])
        return held

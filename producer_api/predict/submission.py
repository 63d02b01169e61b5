"""A request that was submitted by a call without a task: its result goes on through callbacks."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from inferlane.contracts.results import Result
from inferlane.errors import InferlaneError
from producer_api.http.error_responses import stopping

if TYPE_CHECKING:
    from producer_api.predict.call import Call
    from producer_api.predict.result_waits import ResultWaits

Acknowledged = asyncio.Future[InferlaneError | None]
"""Resolved with None once the broker has the request, or with the error. The error is the result and not the exception
of the future, because nobody awaits it after the client has its response or has disconnected."""


class WaitingCall(Protocol):
    """A call that waits for the outcome of its request."""

    def end(self, outcome: Result | Exception | None) -> None:
        """End the call, once: with the terminal result, with the error, or with None if there is no result yet.

        It raises nothing.
        """
        ...

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run what follows in a task that ends before the process does."""
        ...


async def end_with(steps: Awaitable[Result | None], end: Callable[[Result | Exception | None], None]) -> None:
    """Take the rest of the steps of a call in a task, and end it with what they return or raise."""
    try:
        outcome: Result | Exception | None = await steps
    except Exception as error:  # noqa: BLE001 - the call gets a response, whatever failed
        outcome = error
    except asyncio.CancelledError:
        end(stopping())
        raise
    end(outcome)


class Submission:
    """The waiter of such a request, which the result resolves at once. One event loop."""

    __slots__ = (
        "_acknowledged",
        "_is_done",
        "_limit",
        "_on_unanswered",
        "_outcome",
        "_waiting",
        "_waits",
        "call",
        "ticket",
    )

    def __init__(
        self,
        waits: "ResultWaits",
        call: "Call",
        waiting: WaitingCall,
        *,
        on_unanswered: "Callable[[Submission], Coroutine[Any, Any, None]]",
    ) -> None:
        """Register the waiter. `on_unanswered` is run in a task if the wait runs out; it must end with `end`.

        Raises:
            OverloadedError: too many calls wait in this process.
        """
        self._waits = waits
        self._waiting = waiting
        self._on_unanswered = on_unanswered
        self._is_done = False
        self.call = call
        # Made only if the outcome of the record is waited for; until then it is noted in `_outcome`.
        self._acknowledged: Acknowledged | None = None
        self._outcome: tuple[InferlaneError | None] | None = None
        self.ticket = -1
        waits.register(self, model=call.model, key=call.request_id)
        self._limit = waits.end_at(self, until_s=call.wait_until_s, deadline_s=call.deadline_s)

    def done(self) -> bool:
        """Return whether the result is there, or the wait ran out."""
        return self._is_done

    def acknowledge(self, error: InferlaneError | None) -> None:
        """Note the outcome of the record: None once the broker has it. An error ends the wait."""
        self._outcome = (error,)
        # Done before: the call has ended without it, because the broker took longer than the call had.
        if self._acknowledged is not None and not self._acknowledged.done():
            self._acknowledged.set_result(error)
        if error is not None and not self._is_done:
            self.set_result(None)

    def acknowledged(self) -> Acknowledged:
        """Return what is resolved with the outcome of the record."""
        if self._acknowledged is None:
            self._acknowledged = asyncio.get_running_loop().create_future()
            if self._outcome is not None:
                self._acknowledged.set_result(*self._outcome)
        return self._acknowledged

    def set_result(self, result: Result | None, /) -> None:
        """End the call with its result; None leads to `on_unanswered`."""
        self._is_done = True
        self._limit.discard(self)
        if result is None:
            self._waiting.spawn(self._on_unanswered(self))
        else:
            self.end(result)

    def end(self, outcome: Result | Exception | None) -> None:
        """Remove the waiter and end the call."""
        self.withdraw()
        self._waiting.end(outcome)

    def withdraw(self) -> None:
        """Remove the waiter; the call is not ended."""
        self._limit.discard(self)
        self._waits.remove(self, model=self.call.model, key=self.call.request_id)

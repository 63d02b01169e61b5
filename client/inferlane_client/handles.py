"""A request that was accepted: its result, its state, its events, and how it is taken back."""

from collections.abc import AsyncIterator, Iterator

from inferlane_client.answers import Prediction, Status
from inferlane_client.callers import AsyncCaller, Caller
from inferlane_client.events import Event


class Handle:
    """A request that was accepted. It needs no connection: its id is all that it holds."""

    def __init__(self, caller: Caller, request_id: str) -> None:
        self._caller = caller
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"Handle({self.request_id!r})"

    def result(self, *, timeout_s: float | None = None) -> Prediction:
        """Wait for the result, for the client's `timeout_s` if none is given.

        Raises:
            TimedOut: it was not there in time; it may be asked for again.
            NotFound: the result was kept long enough and forgotten, or the request is another key's.
            Unsuccessful: the request ended without a result.
        """
        caller = self._caller
        return caller.run(caller.exchanges.result(self.request_id, timeout_s=caller.time_of(timeout_s)))

    def status(self) -> Status:
        """Where the request is now.

        Raises:
            NotFound: as `result`.
        """
        caller = self._caller
        return caller.run(caller.exchanges.status(self.request_id, timeout_s=caller.time_of(None)))

    def events(self, *, last_event_id: str | None = None, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield what becomes of the request as the server tells it: `queued` unless it has ended, then `result`.

        Needs no polls. A stream that breaks off is opened again with the last event's id, until the time is over, which
        is noticed up to 15 s late.

        Args:
            last_event_id: the `id` of a `result` that is known; there is no event then unless there is another result.
            timeout_s: the time of the whole stream; else that of the client.

        Raises:
            TimedOut: there was no result in time; the request goes on.
            NotFound: as `result`.
        """
        caller = self._caller
        time_s = caller.time_of(timeout_s)
        yield from caller.events(
            caller.exchanges.events(self.request_id, last_event_id=last_event_id, timeout_s=time_s)
        )

    def cancel(self) -> bool:
        """Take the request back; return False if it had ended before. Doing it twice changes nothing.

        Raises:
            NotFound: as `result`.
        """
        caller = self._caller
        return caller.run(caller.exchanges.cancel(self.request_id, timeout_s=caller.time_of(None)))


class AsyncHandle:
    """A request that was accepted, as `Handle`."""

    def __init__(self, caller: AsyncCaller, request_id: str) -> None:
        self._caller = caller
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"AsyncHandle({self.request_id!r})"

    async def result(self, *, timeout_s: float | None = None) -> Prediction:
        """Wait for the result. Errors are those of `Handle.result`."""
        caller = self._caller
        return await caller.run(caller.exchanges.result(self.request_id, timeout_s=caller.time_of(timeout_s)))

    async def status(self) -> Status:
        """Where the request is now. Errors are those of `Handle.status`."""
        caller = self._caller
        return await caller.run(caller.exchanges.status(self.request_id, timeout_s=caller.time_of(None)))

    async def events(self, *, last_event_id: str | None = None, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """Yield what becomes of the request. Arguments and errors are those of `Handle.events`."""
        caller = self._caller
        time_s = caller.time_of(timeout_s)
        stream = caller.exchanges.events(self.request_id, last_event_id=last_event_id, timeout_s=time_s)
        async for event in caller.events(stream):
            yield event

    async def cancel(self) -> bool:
        """Take the request back; return False if it had ended before. Errors are those of `Handle.cancel`."""
        caller = self._caller
        return await caller.run(caller.exchanges.cancel(self.request_id, timeout_s=caller.time_of(None)))

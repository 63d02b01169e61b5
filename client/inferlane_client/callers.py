"""How the steps of a call are done: by the thread that calls, or on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar, cast

import httpx

from inferlane_client.connection_pool import AsyncConnectionPool, ConnectionPool
from inferlane_client.events import Event, EventStream
from inferlane_client.exchanges import JsonExchanges
from inferlane_client.retries import Outcome, Pause, Retries, Send, Steps
from inferlane_client.server_connection import Connection, is_event_stream, no_reply_of, reply_of

T = TypeVar("T")


class Caller:
    """Does the steps of calls, each in the thread that makes it."""

    def __init__(self, connection: Connection, retries: Retries, timeout_s: float) -> None:
        self._connection = connection
        self._pool = ConnectionPool(connection.transport, connection.connections)
        self._timeout_s = timeout_s
        self.exchanges = JsonExchanges(retries)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def time_of(self, timeout_s: float | None) -> float:
        """The time of a call, which may name none."""
        return self._timeout_s if timeout_s is None else timeout_s

    def run(self, steps: Steps[T]) -> T:
        """Do the steps, and return what comes of them.

        Raises:
            CallError: as the steps.
        """
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                return cast("T", stop.value)
            outcome = self._perform(step)

    def events(self, stream: EventStream) -> Iterator[Event]:
        """Yield the events of a request, over as many connections as it takes.

        Raises:
            CallError: as `EventStream`.
        """
        while not stream.is_over():
            outcome: Outcome = None
            try:
                opening = stream.opening()
                request = self._connection.request(opening)
                with self._pool.send(request, timeout_s=opening.timeout_s) as response:
                    if is_event_stream(response):
                        for chunk in response.iter_bytes():
                            yield from stream.read(chunk)
                            if stream.is_over():
                                return
                    else:
                        response.read()
                        outcome = reply_of(response)
            except (httpx.TransportError, httpx.DecodingError) as error:
                outcome = no_reply_of(error)
            time.sleep(stream.ended(outcome))

    def _perform(self, step: Send | Pause) -> Outcome:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            with self._pool.send(self._connection.request(step), timeout_s=step.timeout_s) as response:
                response.read()
                return reply_of(response)
        except (httpx.TransportError, httpx.DecodingError) as error:
            return no_reply_of(error)


class AsyncCaller:
    """Does the steps of calls on one event loop."""

    def __init__(self, connection: Connection, retries: Retries, timeout_s: float) -> None:
        self._connection = connection
        self._pool = AsyncConnectionPool(connection.async_transport, connection.connections)
        self._timeout_s = timeout_s
        self.exchanges = JsonExchanges(retries)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    def time_of(self, timeout_s: float | None) -> float:
        """The time of a call, which may name none."""
        return self._timeout_s if timeout_s is None else timeout_s

    async def run(self, steps: Steps[T]) -> T:
        """Do the steps, and return what comes of them. Errors are those of `Caller.run`."""
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                return cast("T", stop.value)
            outcome = await self._perform(step)

    async def events(self, stream: EventStream) -> AsyncIterator[Event]:
        """Yield the events of a request. Errors are those of `Caller.events`."""
        while not stream.is_over():
            outcome: Outcome = None
            try:
                opening = stream.opening()
                request = self._connection.request(opening)
                async with self._pool.send(request, timeout_s=opening.timeout_s) as response:
                    if is_event_stream(response):
                        async for chunk in response.aiter_bytes():
                            for event in stream.read(chunk):
                                yield event
                            if stream.is_over():
                                return
                    else:
                        await response.aread()
                        outcome = reply_of(response)
            except (httpx.TransportError, httpx.DecodingError) as error:
                outcome = no_reply_of(error)
            await asyncio.sleep(stream.ended(outcome))

    async def _perform(self, step: Send | Pause) -> Outcome:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with self._pool.send(self._connection.request(step), timeout_s=step.timeout_s) as response:
                await response.aread()
                return reply_of(response)
        except (httpx.TransportError, httpx.DecodingError) as error:
            return no_reply_of(error)

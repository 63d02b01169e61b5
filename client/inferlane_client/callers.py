"""How the steps of a call are done: by the thread that calls, or on the event loop."""

import asyncio
import time
from typing import Any, TypeVar, cast

import httpx

from inferlane_client.attempts import Outcome, Pause, Retries, Send, Steps
from inferlane_client.connection import arguments_of, no_reply_of, reply_of
from inferlane_client.exchanges import Exchanges

T = TypeVar("T")


class Caller:
    """Does the steps of calls, each in the thread that makes it. `options` are those of `httpx.Client`."""

    def __init__(self, options: dict[str, Any], retries: Retries, timeout_s: float) -> None:
        self._http = httpx.Client(**options)
        self._timeout_s = timeout_s
        self.exchanges = Exchanges(retries)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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

    def _perform(self, step: Send | Pause) -> Outcome:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return reply_of(self._http.request(**arguments_of(step)))
        except httpx.TransportError as error:
            return no_reply_of(error)


class AsyncCaller:
    """Does the steps of calls on one event loop. `options` are those of `httpx.AsyncClient`."""

    def __init__(self, options: dict[str, Any], retries: Retries, timeout_s: float) -> None:
        self._http = httpx.AsyncClient(**options)
        self._timeout_s = timeout_s
        self.exchanges = Exchanges(retries)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

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

    async def _perform(self, step: Send | Pause) -> Outcome:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return reply_of(await self._http.request(**arguments_of(step)))
        except httpx.TransportError as error:
            return no_reply_of(error)

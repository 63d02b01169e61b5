"""A part of the router as a service of the Faust app: its end is the app's end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from mode import Service

from inferlane.runtime.essential import essential

log = structlog.get_logger(__name__)

# Closing clients after the drain failed; whoever waits longer is killed anyway.
_CANCEL_S = 2.0


class Watched(Service):
    """Runs `run(stop)` while the app runs.

    If it ends before it is told to, the app crashes with its error. Stopping sets `stop` and waits for `run` to finish
    what it holds, at most `drain_deadline_s`; past that it is cancelled.
    """

    def __init__(
        self, name: str, run: Callable[[asyncio.Event], Awaitable[None]], *, drain_deadline_s: float, **options: Any
    ) -> None:
        super().__init__(**options)
        self._name = name
        self._run = run
        self._drain_deadline_s = drain_deadline_s
        self._stop = asyncio.Event()
        self._task: asyncio.Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether `run` has started and not ended."""
        return self._task is not None and not self._task.done()

    async def on_start(self) -> None:
        """Start `run`."""
        self._task = essential(asyncio.ensure_future(self._run(self._stop)), may_end=self._stop.is_set)
        self.add_future(self._watch(self._task))

    async def on_stop(self) -> None:
        """Drain `run`."""
        if self._task is None:
            return
        self._stop.set()
        await asyncio.wait({self._task}, timeout=self._drain_deadline_s)
        if not self._task.done():
            log.warning("drain_deadline_passed", part=self._name, drain_deadline_s=self._drain_deadline_s)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CANCEL_S)

    async def _watch(self, task: asyncio.Future[None]) -> None:
        await asyncio.wait({task})
        if not self._stop.is_set():
            # mode crashes the service, and with it the app, with what its future raises.
            task.result()
            raise RuntimeError(f"{self._name} ended before it was told to")

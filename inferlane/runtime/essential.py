"""Tasks that a process lives by: when one of them ends, the process ends too, with its error."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import structlog

log = structlog.get_logger(__name__)

_AnyTask = TypeVar("_AnyTask", bound="asyncio.Future[Any]")
# What a process that failed may still take to leave its groups and close its clients. One that hangs meanwhile would
# stand there dead, and nobody would start another.
_LEAVE_WITHIN_S = 30.0
FAILED = 1


@dataclass(slots=True)
class Process:
    """The process as its tasks see it: `stop` is set when it should finish, `failure` is what it died of."""

    stop: asyncio.Event
    failure: BaseException | None = field(default=None)

    def fail(self, error: BaseException, *, task: str) -> None:
        """Let the process end: what it holds is finished if that still works."""
        log.error("process_ends", task=task, error=repr(error), within_s=_LEAVE_WITHIN_S)
        self.failure = self.failure or error
        self.stop.set()
        leave_within(_LEAVE_WITHIN_S)


CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)


def never() -> bool:
    """The task must not end before the process is told to."""
    return False


def essential(task: _AnyTask, *, may_end: Callable[[], bool] = never) -> _AnyTask:
    """Let the process that runs this end with `task`, unless `may_end` says so then. Returns the task."""
    process = CURRENT.get()
    if process is not None:
        task.add_done_callback(lambda ended: _note_end(process, ended, may_end))
    return task


def _note_end(process: Process, ended: "asyncio.Future[Any]", may_end: Callable[[], bool]) -> None:
    if ended.cancelled() or process.stop.is_set():
        return
    name = ended.get_name() if isinstance(ended, asyncio.Task) else repr(ended)
    error = ended.exception()
    if error is not None or not may_end():
        process.fail(error or RuntimeError(f"{name} ended before it was told to"), task=name)


class Background:
    """Work that goes on beside the calls for as long as the process lives, and with which it ends. One event loop."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Any]], *, name: str) -> None:
        self._work = work
        self._name = name
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin the work."""
        self._task = essential(asyncio.create_task(self._work(), name=self._name))

    @property
    def is_running(self) -> bool:
        """Whether the work was begun and has not ended."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Cancel the work and return when it has ended, however it did: what it died of has ended the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def leave_within(seconds: float, *, exit_code: int = FAILED) -> None:
    """End the process after so long whatever it waits for; a thread, for the event loop may be what hangs."""
    timer = threading.Timer(seconds, os._exit, args=(exit_code,))
    timer.daemon = True
    timer.start()

"""The life of a process: it waits for what it needs, ends with its essential tasks, and drains at the first signal."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import structlog
import uvloop

from inferlane.errors import NotServedError, UnavailableError
from inferlane.runtime.retry import back_off

_T = TypeVar("_T")

log = structlog.get_logger(__name__)

# Too short overloads a part that is just coming back, too long delays this process after the part is back.
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 2.0


class StoppedEarlyError(Exception):
    """The process was told to stop before it served. Remedy: none is needed; it closes in order."""


async def unless_stopped(work: Awaitable[_T], stop: asyncio.Event) -> _T:
    """Return what `work` returns; it is cancelled as soon as `stop` is set.

    Raises:
        StoppedEarlyError: `stop` was set first.
    """
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise StoppedEarlyError
        return working.result()
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


class Startup:
    """The parts that a process waits for before it serves. Pass `live` and `ready` to the ops port."""

    def __init__(self, stop: asyncio.Event) -> None:
        """`stop` ends every wait."""
        self._stop = stop
        self._parts: dict[str, bool] = {"started": False}
        self.reason = "the process has just begun"

    def live(self) -> Mapping[str, bool]:
        """Return True: the process waits, and a restart would not shorten that."""
        return {"starting": True}

    def ready(self) -> Mapping[str, bool]:
        """Return for each part by name whether it is available. Never all are true: the process does not serve yet."""
        return dict(self._parts)

    async def wait_for(self, part: str, start: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `start` returns; retry with back-off while the part is unavailable.

        Raises:
            StoppedEarlyError: the process was told to stop meanwhile.
        """
        waits = back_off(_FIRST_RETRY_S, _LONGEST_RETRY_S)
        has_waited = False
        self._parts[part] = False
        self.reason = f"it waits for the {part}"
        while True:
            try:
                found = await unless_stopped(start(), self._stop)
            except NotServedError:
                # A person must repair it: the supervisor shows the reason, and starts another process.
                raise
            except UnavailableError as error:
                if not has_waited:
                    log.warning("start_waits", part=part, error=str(error))
                has_waited = True
                self.reason = f"it waits for the {part}: {error}"
            else:
                if has_waited:
                    log.info("start_goes_on", part=part)
                self._parts[part] = True
                return found
            await unless_stopped(asyncio.sleep(next(waits)), self._stop)


_AnyTask = TypeVar("_AnyTask", bound="asyncio.Future[Any]")
# The seconds that a failed process may take to leave its groups and close its clients. If it hung longer, nobody would
# start another.
_LEAVE_WITHIN_S = 30.0
FAILED = 1


@dataclass(slots=True)
class Process:
    """The process as its tasks see it: `stop` is set when it should finish, `failure` is the error that ended it."""

    stop: asyncio.Event
    failure: BaseException | None = field(default=None)

    def fail(self, error: BaseException, *, task: str) -> None:
        """End the process because of an error; the work in hand is finished if that is still possible."""
        log.error("process_ends", task=task, error=repr(error), within_s=_LEAVE_WITHIN_S)
        self.failure = self.failure or error
        self.stop.set()
        leave_within(_LEAVE_WITHIN_S)


CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)


def never() -> bool:
    """Return False: the task must not end before the process is told to stop."""
    return False


def essential(task: _AnyTask, *, may_end: Callable[[], bool] = never) -> _AnyTask:
    """End the current process when `task` ends, unless `may_end` then returns true. Returns the task."""
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
        """Cancel the work and return when it has ended; its error, if any, has already ended the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def leave_within(seconds: float, *, exit_code: int = FAILED) -> None:
    """Kill the process after this time, from a thread, because the event loop itself may hang."""
    timer = threading.Timer(seconds, os._exit, args=(exit_code,))
    timer.daemon = True
    timer.start()


_KILLED_BY_SECOND_SIGNAL = 130
# Net allocations between two garbage collections. Reference counts free what a request leaves behind, so Python's
# default of 700 scans every batch for nothing (5-8 % of the CPU under load); too many keep reference cycles, mostly
# those of tracebacks, for longer.
_GARBAGE_THRESHOLD = 20_000


def run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `serve(stop)` on uvloop until it returns.

    The first SIGTERM or SIGINT sets `stop`: `serve` must then drain and return. A second one ends the process at once;
    uncommitted records are redelivered to another process. The end of an `essential` task sets `stop` too.

    Raises:
        Exception: the error of `serve` or of an essential task; the process must exit with a code other than 0.
    """
    # Modules stay for good: exclude them from garbage collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_with_signals(serve))


async def _with_signals(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()

    def on_signal(signum: int) -> None:
        if stop.is_set():
            os._exit(_KILLED_BY_SECOND_SIGNAL)
        log.info("drain_requested", signal=signal.Signals(signum).name)
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal, signum)
    process = Process(stop)
    CURRENT.set(process)
    try:
        with suppress(StoppedEarlyError):
            await serve(stop)
    except Exception as error:
        if process.failure is None:
            process.fail(error, task="serve")
        raise
    if process.failure is not None:
        raise process.failure

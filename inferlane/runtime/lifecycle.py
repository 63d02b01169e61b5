"""How a process of ours runs: uvloop, and two signals: the first drains, the second kills."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import uvloop

from inferlane.runtime.essential import CURRENT, Process
from inferlane.runtime.starting import StoppedEarlyError

log = structlog.get_logger(__name__)

_KILLED_BY_SECOND_SIGNAL = 130
# Net allocations between two looks for garbage. What a request leaves behind is freed by its reference count, so with
# Python's own 700 every batch is looked through for nothing (5-8 % of the CPU under load); too many keeps cycles, those
# of tracebacks mostly, for longer.
_GARBAGE_THRESHOLD = 20_000


def run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `serve(stop)` on uvloop until it returns.

    The first SIGTERM or SIGINT sets `stop`: `serve` must then finish what it holds and return. A second one
    ends the process at once; what was not committed is redelivered to somebody else. The end of a task that the process
    lives by (`inferlane.runtime.essential`) sets `stop` too.

    Raises:
        Exception: what `serve` raised, or what such a task died of; the process must end with another code than 0.
    """
    # The modules are there for good: no need to look through them ever again.
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

"""Run long work in a thread that a stopping process does not wait for, as it waits for asyncio's own threads."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


async def in_daemon_thread(call: Callable[[], _T], *, name: str) -> _T:
    """Return what `call` returns. If this is cancelled, the call goes on and nobody hears how it ends.

    Raises:
        Exception: what the call raised.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()
    context = copy_context()

    def settle(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not done.done():
            set_outcome(outcome)

    def run() -> None:
        try:
            found = context.run(call)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            settled = partial(settle, done.set_exception, error)
        else:
            settled = partial(settle, done.set_result, found)
        # A loop that is closed already has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settled)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done

"""Waiting, at the start of a process, for what it depends on; and ending while it waits."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog

from inferlane.errors import NotServedError, UnavailableError

_T = TypeVar("_T")

log = structlog.get_logger(__name__)

# Too short hammers a part that is just coming back, too long leaves this process away when that is there again.
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 2.0


class StoppedEarlyError(Exception):
    """The process was told to stop before it served. Remedy: none is needed; it ends in good order."""


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
    """What a process waits for before it serves. Give `live` and `ready` to whoever answers for its health."""

    def __init__(self, stop: asyncio.Event) -> None:
        """`stop` ends every wait."""
        self._stop = stop
        self._parts: dict[str, bool] = {"started": False}
        self.reason = "the process has just begun"

    def live(self) -> Mapping[str, bool]:
        """It waits, which no restart would make shorter."""
        return {"starting": True}

    def ready(self) -> Mapping[str, bool]:
        """Each part that was waited for, by name, and whether it is there. Never all: it does not serve yet."""
        return dict(self._parts)

    async def wait_for(self, part: str, start: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `start` returns; try again, with back-off, for as long as the part is away.

        Raises:
            StoppedEarlyError: the process was told to stop meanwhile.
        """
        delay_s = _FIRST_RETRY_S
        self._parts[part] = False
        self.reason = f"it waits for the {part}"
        while True:
            try:
                found = await unless_stopped(start(), self._stop)
            except NotServedError:
                # A person has to mend it: the supervisor shows the reason, and starts another.
                raise
            except UnavailableError as error:
                if delay_s == _FIRST_RETRY_S:
                    log.warning("start_waits", part=part, error=str(error))
                self.reason = f"it waits for the {part}: {error}"
            else:
                if delay_s != _FIRST_RETRY_S:
                    log.info("start_goes_on", part=part)
                self._parts[part] = True
                return found
            await unless_stopped(asyncio.sleep(delay_s * random.uniform(0.5, 1.0)), self._stop)  # noqa: S311 - not a secret
            delay_s = min(2 * delay_s, _LONGEST_RETRY_S)

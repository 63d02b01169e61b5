"""Work side by side, or one piece of it with nothing beside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Isolation:
    """Lets any number of blocks run at once, or one alone; who waits to be alone goes first. One event loop."""

    def __init__(self) -> None:
        self._alone = asyncio.Lock()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Run the block beside others, and never beside one that runs alone."""
        if self._alone.locked():
            async with self._alone:
                pass
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run the block with nothing beside it."""
        async with self._alone:
            await self._idle.wait()
            yield

"""One snapshot for all open pages: taken each second while somebody looks, now and then when nobody does."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec
import structlog

from dashboards.live.snapshot import Point, Snapshot
from inferlane.errors import OverloadedError
from inferlane.runtime.service import essential

log = structlog.get_logger(__name__)

_WATCHED_EVERY_S = 1.0
# Without viewers the charts still get a point now and then, so that a page shows what was before it was opened. More
# often costs an idle machine, less often hides a burst.
_UNWATCHED_EVERY_S = 10.0
# A browser keeps at most six connections to a server, so this is many people, or a script that forgets to close.
_MAX_VIEWERS = 100

_encode = msgspec.json.Encoder().encode


class Feed:
    """Takes snapshots and hands the newest to every viewer as an event of `text/event-stream`."""

    def __init__(self, look: Callable[[], Awaitable[Snapshot]], history: Callable[[], Sequence[Point]]) -> None:
        self._look = look
        self._history = history
        self._event = b""
        self._number = 0
        self._changed = asyncio.Condition()
        self._viewers = 0
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Begin to look."""
        self._task = essential(asyncio.create_task(self._run(), name="feed"))

    @property
    def is_running(self) -> bool:
        """Whether snapshots are still taken."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Stop looking and end every stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def refuse_if_full(self) -> None:
        """Return if one more page may be opened.

        Raises:
            OverloadedError: too many are.
        """
        if self._viewers >= _MAX_VIEWERS:
            raise OverloadedError(f"{self._viewers} pages are open, the limit is {_MAX_VIEWERS}; close some")

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of one page: the history, then each new snapshot. A page that reads slowly misses some."""
        self._viewers += 1
        self._came.set()
        # The newest may be ten seconds old: the next is on its way.
        seen = self._number
        try:
            # After this many milliseconds without an answer the browser tries again by itself.
            yield b"retry: 1000\n" + _event("history", _encode(self._history()))
            while await self._is_newer(seen):
                seen = self._number
                yield self._event
        finally:
            self._viewers -= 1

    async def _is_newer(self, seen: int) -> bool:
        """Wait for a snapshot after the one numbered `seen`; False once there will be none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._number > seen)
        return not self._closed

    async def _run(self) -> None:
        while True:
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            try:
                snapshot = await self._look()
            except Exception:
                # One snapshot that cannot be made must not end the page for everybody; the next may be well.
                log.exception("snapshot_failed")
            else:
                async with self._changed:
                    self._event = _event("snapshot", _encode(snapshot))
                    self._number += 1
                    self._changed.notify_all()
            await self._pause(started_s)

    async def _pause(self, started_s: float) -> None:
        """Return when the next snapshot is due, which is at once when the first viewer comes."""
        loop = asyncio.get_running_loop()
        if not self._viewers:
            self._came.clear()
            try:
                async with asyncio.timeout_at(started_s + _UNWATCHED_EVERY_S):
                    await self._came.wait()
            except TimeoutError:
                return
        else:
            await asyncio.sleep(started_s + _WATCHED_EVERY_S - loop.time())


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"

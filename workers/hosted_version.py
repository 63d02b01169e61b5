"""One version in a shared worker: loaded, served until it is told to stop, and retried after a failure."""

import asyncio
import math
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from inferlane.errors import UnavailableError, clipped
from inferlane.runtime.redis.version_faults import VersionFaults
from inferlane.runtime.retry import back_off
from inferlane.runtime.service import StoppedEarlyError, unless_stopped
from workers.version_loading import load_version
from workers.version_service import SharedParts, VersionService, WorkerClients

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferlane.runtime.config import Settings
    from inferlane.runtime.kafka.topic_feed import TopicFeed
    from models.catalog import Catalog
    from workers.model import OnnxModel
    from workers.roster import VersionName

log = structlog.get_logger(__name__)

# A version that cannot be loaded is retried, as its files may be repaired: seldom, as each try takes a core.
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0


class HostState(StrEnum):
    """A hosted version: `LOADING` → `SERVING`, or `FAILED` until the next try, and `STOPPED` at the end."""

    LOADING = "loading"
    SERVING = "serving"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """The status of a hosted version; `reason` says why it failed."""

    state: HostState
    reason: str = ""


class HostedVersion:
    """Runs once. Used from one event loop."""

    def __init__(
        self,
        name: "VersionName",
        settings: "Settings",
        clients: WorkerClients,
        shared: SharedParts,
        *,
        read_store: "Callable[[float], Catalog | None]",
        loading: asyncio.Semaphore,
    ) -> None:
        """`loading` limits how many versions load at once.

        `read_store` returns the model store as it was read at or after a time of the monotonic clock, in seconds; it is
        called from a thread.
        """
        self.name = name
        self.status = HostStatus(state=HostState.LOADING)
        self.settled = asyncio.Event()
        self.service: VersionService | None = None
        self._settings = settings
        self._clients = clients
        self._shared = replace(shared, source=partial(self._note_feed, shared.source))
        self._feeds: list[TopicFeed] = []
        self._read_store = read_store
        self._loading = loading
        self._stop = asyncio.Event()
        # Of one serving, which its own failure ends too: that must not look like an order to stop.
        self._end = asyncio.Event()
        self._faults = VersionFaults(clients.redis, redis_url=settings.store.redis_url, names=settings.stack.names)

    def stop(self) -> None:
        """Stop: finish the batches under way."""
        self._stop.set()
        self._end.set()
        for feed in self._feeds:
            feed.wake()

    def is_stopping(self) -> bool:
        """Return whether it was told to stop."""
        return self._stop.is_set()

    async def run(self) -> None:
        """Serve until `stop`; an error of this version does not end the others."""
        waits = back_off(_FIRST_RETRY_S, _LONGEST_RETRY_S)
        with suppress(StoppedEarlyError):
            while not self._stop.is_set():
                # A later try reads the store anew, as its files may have been repaired since the failure.
                served_from_s = math.inf
                try:
                    loaded = await self._load(time.monotonic())
                    served_from_s = time.monotonic()
                    await self._serve(*loaded)
                except StoppedEarlyError:
                    raise
                except UnavailableError as error:
                    # Nothing is wrong with the version.
                    log.warning("hosted_version_waits", model=self.name[0], version=self.name[1], error=str(error))
                except Exception as error:
                    log.exception("hosted_version_failed", model=self.name[0], version=self.name[1], error=str(error))
                    await self._note_failure(error)
                if time.monotonic() - served_from_s > _LONGEST_RETRY_S:
                    waits = back_off(_FIRST_RETRY_S, _LONGEST_RETRY_S)
                if not self._stop.is_set():
                    await unless_stopped(asyncio.sleep(next(waits)), self._stop)
        self._enter(HostState.STOPPED)

    async def _load(self, since_s: float) -> "tuple[OnnxModel, str]":
        self._enter(HostState.LOADING, reason=self.status.reason)
        async with self._loading:
            if self._stop.is_set():
                raise StoppedEarlyError
            store = await asyncio.to_thread(self._read_store, since_s)
            settings = self._settings
            load = load_version(
                settings.kafka, settings.stack, settings.worker, self.name, faults=self._faults, store=store
            )
            return await unless_stopped(load, self._stop)

    async def _serve(self, onnx: "OnnxModel", default_version: str) -> None:
        retrier = self._clients.retrier
        async with AsyncExitStack() as stack:
            service = VersionService(
                self._settings, self._clients, model=onnx, default_version=default_version, shared=self._shared
            )
            await service.open(stack, lambda call: unless_stopped(retrier.until_done(call, stage="open"), self._stop))
            self.service = service
            stack.callback(self._forget_service)
            self._enter(HostState.SERVING)
            log.info("version_hosted", model=self.name[0], version=self.name[1])
            self._end = asyncio.Event()
            if self._stop.is_set():
                self._end.set()
            await service.serve(self._end)
        log.info("version_left", model=self.name[0], version=self.name[1])

    def _note_feed(self, source: "Callable[..., TopicFeed]", **arguments: Any) -> "TopicFeed":
        self._feeds.append(source(**arguments))
        return self._feeds[-1]

    def _forget_service(self) -> None:
        self.service = None
        self._feeds.clear()

    async def _note_failure(self, error: Exception) -> None:
        self._enter(HostState.FAILED, reason=clipped(str(error)))
        with suppress(UnavailableError):
            await self._faults.report(*self.name, str(error))

    def _enter(self, state: HostState, *, reason: str = "") -> None:
        self.status = HostStatus(state=state, reason=reason)
        if state is not HostState.LOADING:
            self.settled.set()

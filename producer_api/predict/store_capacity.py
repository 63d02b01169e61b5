"""The memory of the result store: refuse requests while it is full, and expire delivered results early."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import NotServedError, StoreFullError, UnavailableError
from inferlane.runtime.logs import LastError
from inferlane.runtime.redis.connection import store_errors
from inferlane.runtime.redis.store_probe import StoreMemory, read_store_memory
from inferlane.runtime.service import Background

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.runtime.redis.result_store import ResultStore
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import StoreSettings

log = structlog.get_logger(__name__)

# Each poll costs the store one small call. Too seldom admits requests that fill the store between two polls.
_LOOK_S = 0.5
# Results expire one by one, so memory becomes free gradually.
_RETRY_AFTER_S = 5.0


class StoreCapacity:
    """Polls the memory of the store while requests arrive, and not while the API is idle. One event loop."""

    def __init__(self, api: "ApiSettings", redis_url: str, redis: "Redis") -> None:
        self._limit_share = api.store_full_share
        self._redis_url = redis_url
        self._redis = redis
        self._memory: StoreMemory | None = None
        self._denied = LastError()
        self._came = asyncio.Event()
        self._background = Background(self._watch_for_ever, name="store_capacity")

    async def start(self) -> None:
        """Start polling. After an error, the next request triggers the next poll."""
        self._background.start()

    async def close(self) -> None:
        """Stop polling."""
        await self._background.close()

    @property
    def is_running(self) -> bool:
        """Whether the task that polls runs."""
        return self._background.is_running

    def admit(self) -> None:
        """Admit a request if the store has memory for its result.

        Raises:
            StoreFullError: the store was full at the last poll.
        """
        # Also for a refused request, so that the store is polled again.
        self._came.set()
        memory = self._memory
        if memory is not None and memory.share >= self._limit_share:
            raise StoreFullError(
                f"the result store is full: it uses {memory}, and new requests are accepted below "
                f"{self._limit_share:.0%} (INFERLANE_STORE_FULL_SHARE), so nothing was enqueued. Send again later; "
                "give it more memory (maxmemory), or keep results for a shorter time (INFERLANE_RESULT_TTL_S)",
                retry_after_s=_RETRY_AFTER_S,
            )

    async def _watch_for_ever(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            await self._look()
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        was_full = self._memory is not None and self._memory.share >= self._limit_share
        try:
            async with store_errors(self._redis_url):
                self._memory = await read_store_memory(self._redis)
        except NotServedError as error:
            # Others may be served: this is a right to one command.
            if self._denied.is_news(error):
                log.error("store_memory_not_read", error=str(error), effect="a full store is not noticed")  # noqa: TRY400 - the message says it all
            return
        except UnavailableError as error:
            # Keep the last value. Whoever needs the store reports that it is unavailable.
            log.debug("store_memory_not_read", error=str(error))
            return
        self._denied.clear()
        is_full = self._memory.share >= self._limit_share
        if is_full and not was_full:
            log.warning("store_full", memory=str(self._memory), limit_share=self._limit_share)
        elif was_full and not is_full:
            log.info("store_has_room", memory=str(self._memory))


# Results of this long are shortened in one call.
_GATHER_S = 1.0
_KEYS_A_CALL = 1_000
# More than one second of results. While the store is unavailable, results beyond it keep their normal lifetime.
_MAX_KEYS = 100_000


class DeliveredResults:
    """Shortens the time to live of results that were delivered to the call that waited. One event loop."""

    def __init__(self, store_settings: "StoreSettings", store: "ResultStore") -> None:
        self._ttl_s = store_settings.delivered_result_ttl_s
        self._store = store
        self._keys: list[str] = []
        self._came = asyncio.Event()
        self._background = Background(self._shorten_for_ever, name="delivered")

    async def start(self) -> None:
        """Start the background task."""
        self._background.start()

    async def close(self) -> None:
        """Stop; results that were only noted keep their normal time to live."""
        await self._background.close()

    @property
    def is_running(self) -> bool:
        """Whether the background task runs."""
        return self._background.is_running

    def note(self, key: str) -> None:
        """Note that the result under this key was delivered to a call without an idempotency key."""
        if len(self._keys) < _MAX_KEYS:
            self._keys.append(key)
            self._came.set()

    async def _shorten_for_ever(self) -> None:
        while True:
            await self._came.wait()
            await asyncio.sleep(_GATHER_S)
            self._came.clear()
            keys, self._keys = self._keys, []
            try:
                for start in range(0, len(keys), _KEYS_A_CALL):
                    await self._store.shorten(keys[start : start + _KEYS_A_CALL], ttl_s=self._ttl_s)
            except UnavailableError as error:
                log.warning("delivered_results_not_shortened", results=len(keys), error=str(error))

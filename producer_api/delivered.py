"""Results that their clients have: they live shorter than those that nobody has read."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import UnavailableError
from inferlane.runtime.essential import Background

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from inferlane.runtime.result_store import ResultStore

log = structlog.get_logger(__name__)

# What gathers in so long is one call of the store.
_GATHER_S = 1.0
_KEYS_A_CALL = 1_000
# More than a second of answers; beyond it, with a store that is away, results live as long as any other.
_MAX_KEYS = 100_000


class Delivered:
    """Shortens the life of results that were handed to who waited. One event loop."""

    def __init__(self, settings: "Settings", store: "ResultStore") -> None:
        self._ttl_s = settings.delivered_result_ttl_s
        self._store = store
        self._keys: list[str] = []
        self._came = asyncio.Event()
        self._background = Background(self._shorten_for_ever, name="delivered")

    async def start(self) -> None:
        """Begin to shorten."""
        self._background.start()

    async def close(self) -> None:
        """Stop; what has gathered lives as long as any other."""
        await self._background.close()

    @property
    def is_running(self) -> bool:
        """Whether results are still shortened."""
        return self._background.is_running

    def note(self, key: str) -> None:
        """Note that the result under this key was handed over, by a call that nobody can send again for it."""
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

"""Whether the store takes writes now, asked by writing: an answer to a read says nothing of that."""

import asyncio
import uuid
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import InferlaneError
from inferlane.runtime.essential import Background
from inferlane.runtime.store_connection import store_errors

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names

log = structlog.get_logger(__name__)

# Often enough that a process is not called ready for long while it can store nothing; each time is one small write.
_EVERY_S = 2.0
_KEPT_S = 60


class StoreProbe:
    """Writes a small key every other second. One event loop."""

    def __init__(self, redis: "Redis", *, redis_url: str, names: "Names") -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._key = names.store_key("probe", uuid.uuid4().hex)
        self._takes_writes: bool | None = None
        self._background = Background(self._ask_for_ever, name="store_probe")

    @property
    def takes_writes(self) -> bool:
        """Whether the last write was taken; False before the first."""
        return self._takes_writes is True

    def start(self) -> None:
        """Begin to ask."""
        self._background.start()

    async def close(self) -> None:
        """Ask no more."""
        await self._background.close()

    async def _ask_for_ever(self) -> None:
        while True:
            try:
                async with store_errors(self._redis_url):
                    await self._redis.set(self._key, b"", ex=_KEPT_S)
            except InferlaneError as error:
                if self._takes_writes is not False:
                    log.warning("store_takes_no_writes", error=str(error))
                self._takes_writes = False
            else:
                if self._takes_writes is False:
                    log.info("store_takes_writes")
                self._takes_writes = True
            await asyncio.sleep(_EVERY_S)

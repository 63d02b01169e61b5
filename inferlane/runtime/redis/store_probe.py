"""Probe by writing whether the store takes writes now: a successful read does not show that."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from inferlane.errors import InferlaneError
from inferlane.runtime.redis.connection import memory_infos, store_errors
from inferlane.runtime.service import Background

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names

log = structlog.get_logger(__name__)

# Seldom shows a process as ready that can store nothing; often costs the store small writes.
_EVERY_S = 2.0
_KEPT_S = 60


class StoreProbe:
    """Writes a small key every other second. Used from one event loop."""

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
        """Start probing."""
        self._background.start()

    async def close(self) -> None:
        """Stop probing."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMemory:
    """The memory that a store uses, and its limit, in bytes (0: no limit). At the limit it refuses writes."""

    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        """The share of its limit that is used; 0 of a store without one."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "StoreMemory":
        """Read `INFO memory`; of several nodes, each under its name, the fullest counts: any may refuse a write."""
        nodes = [part for part in info.values() if isinstance(part, Mapping)] or [info]
        found = [cls(used_bytes=int(node["used_memory"]), limit_bytes=int(node["maxmemory"])) for node in nodes]
        return max(found, key=lambda memory: memory.share)

    def __str__(self) -> str:
        """For a person."""
        used = f"{self.used_bytes / 2**20:.0f} MiB"
        return f"{used} of {self.limit_bytes / 2**20:.0f} MiB ({self.share:.0%})" if self.limit_bytes else used


async def read_store_memory(redis: "Redis") -> StoreMemory:
    """Ask the store. What its client raises is not ours yet: `store_errors`."""
    return StoreMemory.of({str(number): info for number, info in enumerate(await memory_infos(redis))})

"""How full the store is, by its own account."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferlane.runtime.store_connection import memory_infos

if TYPE_CHECKING:
    from redis.asyncio import Redis


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMemory:
    """What a store uses, and what it may (0: no limit). Past the limit it refuses writes."""

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

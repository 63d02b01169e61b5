"""Faults of the store: full, emptied."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from inferlane.runtime.redis.connection import connect

_FILLER_KEY = "faults:filler:"
_FILLER_BYTES = 64 * 1024
_ROOM_BYTES = 1024 * 1024
_MOST_FILLERS = 4 * _ROOM_BYTES // _FILLER_BYTES


@asynccontextmanager
async def full_store(redis_url: str) -> AsyncIterator[None]:
    """Fill the store until it refuses writes; it has room again afterwards.

    The limit is lowered to what is used and a little more, so that filling it up takes a moment, not its whole memory.
    """
    async with connect(redis_url) as redis:
        limit = (await redis.config_get("maxmemory"))["maxmemory"]
        used = int((await redis.info("memory"))["used_memory"])
        await redis.config_set("maxmemory", str(used + _ROOM_BYTES))
        keys: list[str] = []
        try:
            await _fill(redis, keys)
            yield
        finally:
            # The store answers while it is full, and deleting is never refused.
            async with asyncio.timeout(60):
                if keys:
                    await redis.delete(*keys)
                await redis.config_set("maxmemory", limit)


async def empty_store(redis_url: str) -> None:
    """FLUSHALL: results, marks, claims and cancellations are gone."""
    async with connect(redis_url) as redis:
        await redis.flushall()


async def _fill(redis: Redis, keys: list[str]) -> None:
    for number in range(_MOST_FILLERS):
        key = f"{_FILLER_KEY}{number}"
        try:
            await redis.set(key, b"x" * _FILLER_BYTES)
        except OutOfMemoryError:
            return
        keys.append(key)
    raise AssertionError(f"the store took {_MOST_FILLERS * _FILLER_BYTES} bytes over its limit and never refused")

"""Why a version cannot be served, as a worker found that tried to load it; the API shows it beside the version."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inferlane.errors import clipped
from inferlane.runtime.redis.connection import get_many, store_errors

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names

_MAX_REASON_CHARS = 2_000


class VersionFaults:
    """Why versions cannot be served, by model and version. Safe for any number of tasks of one event loop."""

    def __init__(self, redis: "Redis", *, redis_url: str, names: "Names") -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._names = names

    async def report(self, model: str, version: str, reason: str) -> None:
        """Report why a worker cannot serve the version. The reason stays until a worker has loaded it.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.set(self._key(model, version), clipped(reason, limit_chars=_MAX_REASON_CHARS))

    async def clear(self, model: str, version: str) -> None:
        """Remove the reason: a worker has loaded the version.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.delete(self._key(model, version))

    async def read(self, versions: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """Return the reasons of those versions that have one.

        Raises:
            UnavailableError: the store does not answer.
        """
        if not versions:
            return {}
        async with store_errors(self._redis_url):
            found = await get_many(self._redis, [self._key(*version) for version in versions])
        return {
            version: raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
            for version, raw in zip(versions, found, strict=True)
            if raw is not None
        }

    def _key(self, model: str, version: str) -> str:
        return self._names.store_key("version-fault", model, version)

"""Which versions have a worker: said by the workers, so that a router with another catalogue knows where they are.

While a catalogue is being changed, replicas have different ones for a time. A record of a version that a router does
not know is not refused while a worker of that version says that it is there.
"""

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from inferlane.contracts.splits import Served
from inferlane.errors import UnavailableError
from inferlane.runtime.result_store import store_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names
    from inferlane.runtime.clock import Clock

log = structlog.get_logger(__name__)

# How often it is said and read. Seldom lets a new version be refused for longer, often is two commands a process more.
_SAY_S = 5.0
# After this without a word a worker is gone. Shorter forgets one whose store was away, longer sends requests to topics
# that nobody reads any more.
_STANDS_S = 30.0
# Of a member: model, version and default version.
_PARTS = 3


class ServedVersions:
    """The versions in the store. Safe for any number of tasks of one event loop."""

    def __init__(self, redis: "Redis", *, redis_url: str, clock: "Clock", names: "Names") -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._clock = clock
        self._key = names.store_key("served")
        self._seen: Mapping[str, Served] = {}

    def get(self, model: str) -> Served | None:
        """What was read last of a model, None if it has no worker."""
        return self._seen.get(model)

    async def say(self, model: str, version: str, *, default_version: str) -> None:
        """Say once that a worker of the version is there.

        Raises:
            UnavailableError: the store does not answer.
        """
        now_s = self._clock.now_s()
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            # No name holds a space: `inferlane.contracts.naming` has the rule.
            pipeline.zadd(self._key, {f"{model} {version} {default_version}": now_s + _STANDS_S})
            pipeline.zremrangebyscore(self._key, "-inf", now_s)
            await pipeline.execute()

    async def read(self) -> None:
        """Read them all anew.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            # redis-py's type covers every protocol and option; these give names, those said last at the end.
            members: Any = await self._redis.zrangebyscore(self._key, self._clock.now_s(), "+inf")
        seen: dict[str, Served] = {}
        for member in members:
            parts = member.decode(errors="replace").split(" ")
            if len(parts) != _PARTS:
                # Not ours: whoever may write there must not end this router.
                continue
            model, version, default_version = parts
            before = seen.get(model, Served())
            seen[model] = Served(default_version, {*before.versions, version})
        self._seen = seen

    async def say_for_ever(self, model: str, version: str, *, default_version: str) -> NoReturn:
        """Say it every few seconds until cancelled; a store that is away is tried again."""
        while True:
            try:
                await self.say(model, version, default_version=default_version)
            except UnavailableError as error:
                log.debug("served_version_not_said", error=str(error))
            await asyncio.sleep(_SAY_S)

    async def read_for_ever(self) -> NoReturn:
        """Read them every few seconds until cancelled; while the store is away the last ones stand."""
        while True:
            try:
                await self.read()
            except UnavailableError as error:
                log.debug("served_versions_not_read", error=str(error))
            await asyncio.sleep(_SAY_S)

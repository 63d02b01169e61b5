"""The versions that have a worker, as their workers report them to routers with another catalogue.

While a catalogue changes, replicas hold different states of it for a time. A router does not refuse a record of a
version that its catalogue lacks while a worker of that version reports itself.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from inferlane.contracts.traffic_split import Served
from inferlane.runtime.redis.connection import store_errors
from inferlane.runtime.repeating import repeat_for_ever

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names
    from inferlane.runtime.retry import Clock

log = structlog.get_logger(__name__)

# Seconds between reports and between reads. Seldom refuses a new version for longer, often costs the store commands.
_SAY_S = 5.0
# A worker that has not reported for this long is gone. Shorter forgets workers during an outage of the store, longer
# sends requests to topics that nobody reads any more.
_STANDS_S = 30.0
# The parts of a member: model, version and default version.
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
        """Return what was last read of a model, None if it has no worker."""
        return self._seen.get(model)

    async def say(self, model: str, version: str, *, default_version: str) -> None:
        """Report once that a worker serves the version.

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
        """Read all versions that have a worker.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            # redis-py's type covers every protocol and option; these arguments give names, the latest last.
            members: Any = await self._redis.zrangebyscore(self._key, self._clock.now_s(), "+inf")
        seen: dict[str, Served] = {}
        for member in members:
            parts = member.decode(errors="replace").split(" ")
            if len(parts) != _PARTS:
                # Written by somebody else: that must not end this router.
                continue
            model, version, default_version = parts
            before = seen.get(model, Served())
            seen[model] = Served(default_version, {*before.versions, version})
        self._seen = seen

    async def say_for_ever(self, model: str, version: str, *, default_version: str) -> NoReturn:
        """Report every few seconds until cancelled; retry while the store is unavailable."""
        say = partial(self.say, model, version, default_version=default_version)
        await repeat_for_ever(say, every_s=_SAY_S, on_failure="served_version_not_said")

    async def read_for_ever(self) -> NoReturn:
        """Read every few seconds until cancelled; keep the last state while the store is unavailable."""
        await repeat_for_ever(self.read, every_s=_SAY_S, on_failure="served_versions_not_read")

"""The versions that have a worker, as their workers report them to routers with another catalogue.

While a catalogue changes, replicas hold different states of it for a time. A router does not refuse a record of a
version that its catalogue lacks while a worker of that version reports itself.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
from redis.asyncio import Redis

from inferlane.contracts.naming import Names
from inferlane.contracts.traffic_split import Served
from inferlane.contracts.windows import Slot, WindowReport, decode_slot, encode_slot, report, slot_indices
from inferlane.errors import clipped
from inferlane.runtime.redis.connection import get_many, store_errors
from inferlane.runtime.repeating import repeat_for_ever

if TYPE_CHECKING:
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


_MAX_REASON_CHARS = 2_000


class VersionFaults:
    """The reasons by model and version. Safe for any number of tasks of one event loop."""

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


# Longer than the window by the most that clocks differ and reports are late.
_SLACK_S = 120


class WindowStore:
    """The slots of every version. Safe for any number of tasks of one event loop."""

    def __init__(self, redis: Redis, *, redis_url: str, slot_s: int, keep_s: int, names: Names) -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._slot_s = slot_s
        self._names = names
        self._ttl_s = keep_s + slot_s + _SLACK_S

    async def put(self, slots: Sequence[Slot], *, publisher: str) -> bool:
        """Store slots in one round trip; each replaces its older state.

        Returns whether the store still knows this publisher; if not it is new or has forgotten everything since.

        Raises:
            UnavailableError: not every slot was stored; storing them again is harmless.
        """
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(self._names.store_key("window-publisher", publisher), b"", get=True, ex=self._ttl_s)
            for slot in slots:
                pipeline.set(self._key(slot.model, slot.version, slot.index), encode_slot(slot), ex=self._ttl_s)
            known, *_ = await pipeline.execute()
        return known is not None

    async def read(self, model: str, version: str, *, window_s: float, now_s: float) -> WindowReport:
        """Report on the last `window_s` seconds of a version; see `report` for what the edges mean.

        Raises:
            UnavailableError: the store does not answer.
            DecodeError: it holds something else under the key of a slot.
        """
        indices = slot_indices(window_s=window_s, now_s=now_s, slot_s=self._slot_s)
        async with store_errors(self._redis_url):
            stored = await get_many(self._redis, [self._key(model, version, index) for index in indices])
        slots = [decode_slot(raw) for raw in stored if raw is not None]
        return report(slots, model=model, version=version, window_s=window_s, now_s=now_s, slot_s=self._slot_s)

    def _key(self, model: str, version: str, index: int) -> str:
        return self._names.store_key("window", model, version, index)

"""The slots of the windows of every version: the router writes them, the API and the dashboard read them."""

from collections.abc import Sequence

from redis.asyncio import Redis

from inferlane.contracts.naming import Names
from inferlane.contracts.windows import Slot, WindowReport, decode_slot, encode_slot, report, slot_indices
from inferlane.runtime.redis.connection import get_many, store_errors

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

"""Attempts in Redis: one small key a partition, written after an assignment and never in the steady state."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inferlane.runtime.kafka.attempts import Attempt
from inferlane.runtime.result_store import store_errors

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names

# Longer than a partition stands with nobody to try it; what is older says nothing of the process of today.
_KEPT_S = 24 * 3600


class RedisAttemptLog:
    """An `AttemptLog` of the result store."""

    def __init__(self, redis: "Redis", *, redis_url: str, names: "Names") -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._names = names

    async def read(self, topic: str, partitions: Sequence[int]) -> Mapping[int, Attempt]:
        """What was noted last of each partition of which anything was.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            for partition in partitions:
                pipeline.get(self._key(topic, partition))
            found = await pipeline.execute()
        attempts = {partition: Attempt.decode(raw) for partition, raw in zip(partitions, found, strict=True)}
        return {partition: attempt for partition, attempt in attempts.items() if attempt is not None}

    async def write(self, topic: str, attempts: Mapping[int, Attempt]) -> None:
        """Note these, each over what was noted of its partition.

        Raises:
            UnavailableError: the store does not answer, or is full.
        """
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            for partition, attempt in attempts.items():
                pipeline.set(self._key(topic, partition), attempt.encode(), ex=_KEPT_S)
            await pipeline.execute()

    async def forget(self, topic: str, partition: int) -> None:
        """Note that there is nothing to tell of the partition.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.delete(self._key(topic, partition))

    def _key(self, topic: str, partition: int) -> str:
        return self._names.store_key("attempt", topic, partition)

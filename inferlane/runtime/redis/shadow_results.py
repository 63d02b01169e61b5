"""What shadow copies said about a version, in the store: counts, and the rows that disagree most."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from inferlane.contracts.naming import Names
from inferlane.contracts.shadow import (
    Disagreement,
    ShadowCounts,
    ShadowReport,
    decode_disagreement,
    encode_disagreement,
    report_of,
)
from inferlane.runtime.redis.connection import store_errors

# Rows that one run keeps. Fewer show one kind of disagreement only, more are memory of the store.
_MAX_ROWS = 100
_KEEP_S = 7 * 86_400
# A row with labels or strings longer than that is not kept.
_MAX_ROW_BYTES = 8_192
_TIMES, _ORIGINAL_TIMES, _FAILURES = "t", "o", "e"


class ShadowResults:
    """The results of every run. Safe for any number of tasks of one event loop."""

    def __init__(self, redis: Redis, *, redis_url: str, names: Names) -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._names = names

    async def add(self, model: str, version: str, run: str, counts: ShadowCounts, rows: Sequence[Disagreement]) -> None:
        """Add the counts of a batch and its rows that disagree; in one round trip.

        Raises:
            UnavailableError: the store does not answer; some of it may have been added.
        """
        key, rows_key = self._key(model, version, run), self._rows_key(model, version, run)
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            for name in ("copies", "failed", "expired", "compared", "agreed"):
                if count := getattr(counts, name):
                    pipeline.hincrby(key, name, count)
            if counts.distance:
                pipeline.hincrbyfloat(key, "distance", counts.distance)
            fields = {f"{_TIMES}:{time_bin}": count for time_bin, count in counts.times.items()}
            fields |= {f"{_ORIGINAL_TIMES}:{time_bin}": count for time_bin, count in counts.original_times.items()}
            fields |= {f"{_FAILURES}:{code}": count for code, count in counts.failures.items()}
            for field, count in fields.items():
                pipeline.hincrby(key, field, count)
            pipeline.expire(key, _KEEP_S)
            shown = {raw: row.distance for row in rows if len(raw := encode_disagreement(row)) <= _MAX_ROW_BYTES}
            if shown:
                pipeline.zadd(rows_key, shown)
                pipeline.zremrangebyrank(rows_key, 0, -_MAX_ROWS - 1)
                pipeline.expire(rows_key, _KEEP_S)
            await pipeline.execute()

    async def read(self, model: str, version: str, run: str, *, limit: int = _MAX_ROWS) -> ShadowReport:
        """Return what is known of a run, with the `limit` rows that disagree most.

        Raises:
            UnavailableError: the store does not answer.
            DecodeError: it holds something else.
        """
        async with store_errors(self._redis_url):
            raw: Any = await self._redis.hgetall(self._key(model, version, run))
            kept: Any = await self._redis.zrevrange(self._rows_key(model, version, run), 0, limit - 1) if limit else []
        fields = {name.decode(): value for name, value in raw.items()}
        named = {name: int(fields.get(name, 0)) for name in ("copies", "failed", "expired", "compared", "agreed")}
        counts = ShadowCounts(
            **named,
            distance=float(fields.get("distance", 0.0)),
            failures={name: int(value) for name, value in _with(_FAILURES, fields).items()},
            times={int(name): int(value) for name, value in _with(_TIMES, fields).items()},
            original_times={int(name): int(value) for name, value in _with(_ORIGINAL_TIMES, fields).items()},
        )
        rows = tuple(decode_disagreement(row) for row in kept)
        return report_of(counts, rows, model=model, version=version, run=run)

    def _key(self, model: str, version: str, run: str) -> str:
        return self._names.store_key("shadow", model, version, run)

    def _rows_key(self, model: str, version: str, run: str) -> str:
        return self._names.store_key("shadow-rows", model, version, run)


def _with(prefix: str, fields: dict[str, bytes]) -> dict[str, bytes]:
    return {name[len(prefix) + 1 :]: value for name, value in fields.items() if name.startswith(f"{prefix}:")}

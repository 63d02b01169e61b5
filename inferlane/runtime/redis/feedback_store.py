"""The feedback on each version in the store: sums by segment that count each piece once, and the report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from inferlane.contracts.feedback import FeedbackReport, Sums, decode_report, encode_report
from inferlane.contracts.naming import Names
from inferlane.runtime.redis.connection import is_cluster, store_errors

# KEYS: the sums; then for each piece its own key, which exists once it is counted, and the sums of its day. ARGV: the
# seconds for which the sums, the pieces and the sums of a day are kept; then kind, segment and value of each piece.
_ADD = """
for i = 2, #KEYS, 2 do
  if redis.call('SET', KEYS[i], '', 'NX', 'EX', ARGV[2]) then
    local at = 4 + 3 * (i / 2 - 1)
    local kind, segment, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    for _, sums in ipairs({KEYS[1], KEYS[i + 1]}) do
      redis.call('HINCRBY', sums, kind .. ':n:' .. segment, 1)
      redis.call('HINCRBYFLOAT', sums, kind .. ':s:' .. segment, value)
      redis.call('HINCRBYFLOAT', sums, kind .. ':q:' .. segment, value * value)
    end
    redis.call('EXPIRE', KEYS[i + 1], ARGV[3])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""
_KEEP_S = 180 * 86_400
# Rollouts use the sums by day: they compare both versions on the same days.
_KEEP_DAY_S = 62 * 86_400
QUALITY, REWARD = "quality", "reward"


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of feedback: its kind, the segment and day of its request, its value, and its name."""

    kind: str
    day: int
    segment: int
    value: float
    request: bytes


class FeedbackStore:
    """The feedback of every version. Safe for any number of tasks of one event loop."""

    def __init__(self, redis: Redis, *, redis_url: str, names: Names, remember_s: float) -> None:
        """`remember_s`: for how long a repeated piece is recognised."""
        self._redis = redis
        self._redis_url = redis_url
        self._names = names
        self._remember_s = max(1, int(remember_s))
        self._is_cluster = is_cluster(redis)
        self._add = redis.register_script(_ADD)

    async def add(self, model: str, version: str, pieces: Sequence[Piece]) -> Mapping[str, Mapping[int, Sums]]:
        """Add each piece that was not added before; returns all sums by kind and segment.

        Raises:
            UnavailableError: the store does not answer; adding again is harmless.
        """
        tag = self._tag(model, version)
        keys = [self._names.store_key("feedback", tag)]
        arguments: list[str | int] = [_KEEP_S, self._remember_s, _KEEP_DAY_S]
        for piece in pieces:
            keys.append(self._names.store_key("feedback-seen", tag, piece.kind, piece.request.hex()))
            keys.append(self._day_key(tag, piece.day))
            arguments += [piece.kind, piece.segment, repr(piece.value)]
        async with store_errors(self._redis_url):
            flat: Any = await self._add(keys=keys, args=arguments)
        return _sums_of(dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat)

    async def by_day(
        self, model: str, version: str, kind: str, days: Iterable[int]
    ) -> Mapping[int, Mapping[int, Sums]]:
        """Return the sums of one kind by the day of the request, then by segment; days without feedback are left out.

        Raises:
            UnavailableError: the store does not answer.
        """
        found: dict[int, Mapping[int, Sums]] = {}
        for day in days:
            async with store_errors(self._redis_url):
                fields: Any = await self._redis.hgetall(self._day_key(self._tag(model, version), day))
            sums = _sums_of(fields).get(kind)
            if sums:
                found[day] = sums
        return found

    async def put_report(self, model: str, version: str, report: FeedbackReport) -> None:
        """Store the report of a version.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.set(self._report_key(model, version), encode_report(report), ex=_KEEP_S)

    async def report(self, model: str, version: str) -> FeedbackReport | None:
        """Return the report of a version; None without feedback.

        Raises:
            UnavailableError: the store does not answer.
            DecodeError: it holds something else.
        """
        async with store_errors(self._redis_url):
            raw = await self._redis.get(self._report_key(model, version))
        return None if raw is None else decode_report(raw if isinstance(raw, bytes) else raw.encode())

    def _day_key(self, tag: str, day: int) -> str:
        return self._names.store_key("feedback-day", tag, str(day))

    def _report_key(self, model: str, version: str) -> str:
        return self._names.store_key("feedback-report", self._tag(model, version))

    def _tag(self, model: str, version: str) -> str:
        """On a cluster, all keys of a version lie in one slot, which a script may touch."""
        return f"{{{model}/{version}}}" if self._is_cluster else f"{model}/{version}"


def _sums_of(fields: Mapping[bytes, bytes]) -> dict[str, dict[int, Sums]]:
    sums: dict[str, dict[int, Sums]] = {}
    for field, value in fields.items():
        kind, what, segment = field.decode().split(":")
        held = sums.setdefault(kind, {}).get(int(segment), Sums())
        number = float(value)
        sums[kind][int(segment)] = Sums(
            int(number) if what == "n" else held.count,
            number if what == "s" else held.total,
            number if what == "q" else held.squares,
        )
    return sums

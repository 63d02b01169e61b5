"""What feedback says of each version, in the store: sums by segment, each piece of feedback once, and the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from inferlane.contracts.feedback import FeedbackReport, decode_report, encode_report
from inferlane.contracts.naming import Names
from inferlane.runtime.redis.connection import is_cluster, store_errors

# KEYS: of the sums, then one for each piece that is there once it is counted. ARGV: the seconds for which the sums and
# the pieces are kept, then kind, segment and value of each piece.
_ADD = """
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], '', 'NX', 'EX', ARGV[2]) then
    local kind, segment, value = ARGV[3 * i - 3], ARGV[3 * i - 2], ARGV[3 * i - 1]
    redis.call('HINCRBY', KEYS[1], kind .. ':n:' .. segment, 1)
    redis.call('HINCRBYFLOAT', KEYS[1], kind .. ':s:' .. segment, value)
    redis.call('HINCRBYFLOAT', KEYS[1], kind .. ':q:' .. segment, value * value)
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""
_KEEP_S = 180 * 86_400
QUALITY, REWARD = "quality", "reward"


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of feedback: a kind, the segment of its request, its value, and what names it."""

    kind: str
    segment: int
    value: float
    request: bytes


class Sums(msgspec.Struct, frozen=True):
    """Count, sum and sum of squares of one segment."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0


class FeedbackStore:
    """The feedback of every version. Safe for any number of tasks of one event loop."""

    def __init__(self, redis: Redis, *, redis_url: str, names: Names, remember_s: float) -> None:
        """`remember_s`: for how long a repeated piece is known as such."""
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
        arguments: list[str | int] = [_KEEP_S, self._remember_s]
        for piece in pieces:
            keys.append(self._names.store_key("feedback-seen", tag, piece.kind, piece.request.hex()))
            arguments += [piece.kind, piece.segment, repr(piece.value)]
        async with store_errors(self._redis_url):
            flat: Any = await self._add(keys=keys, args=arguments)
        fields = dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat
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

    async def put_report(self, model: str, version: str, report: FeedbackReport) -> None:
        """Store what the sums say.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.set(self._report_key(model, version), encode_report(report), ex=_KEEP_S)

    async def report(self, model: str, version: str) -> FeedbackReport | None:
        """What is known of a version; None without feedback.

        Raises:
            UnavailableError: the store does not answer.
            DecodeError: it holds something else.
        """
        async with store_errors(self._redis_url):
            raw = await self._redis.get(self._report_key(model, version))
        return None if raw is None else decode_report(raw if isinstance(raw, bytes) else raw.encode())

    def _report_key(self, model: str, version: str) -> str:
        return self._names.store_key("feedback-report", self._tag(model, version))

    def _tag(self, model: str, version: str) -> str:
        """On a cluster, all keys of a version lie in one slot, which a script may touch."""
        return f"{{{model}/{version}}}" if self._is_cluster else f"{model}/{version}"

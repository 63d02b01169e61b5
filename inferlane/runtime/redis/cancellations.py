"""Cancelled requests: kept in the store, followed by the workers, looked up without a round trip."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from inferlane.errors import InferlaneError
from inferlane.runtime.redis.connection import STORE_ERRORS, failovers_of, know_nodes, store_errors
from inferlane.runtime.retry import back_off
from inferlane.runtime.service import Background

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names
    from inferlane.runtime.retry import Clock

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_RECONNECT_S = 0.2
# The pause if the store denies the channel: a person must change that.
_LONGEST_RECONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """The callbacks of a subscription. Errors of Inferlane or of the store lead to a new subscription."""

    # Called once subscribed: earlier messages are missed, so the state must be read from the store.
    on_open: Callable[[], Awaitable[None]]
    on_message: Callable[[bytes], Awaitable[None]]
    on_lost: Callable[[], None]


async def follow_channel(redis: "Redis", channel: str, listener: Listener) -> NoReturn:
    """Pass every message to the listener until cancelled; subscribe again after an outage or a failover."""
    waits, has_lost = back_off(_RECONNECT_S, _LONGEST_RECONNECT_S), False
    while True:
        try:
            await know_nodes(redis)
            async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(channel)
                await listener.on_open()
                waits, has_lost = back_off(_RECONNECT_S, _LONGEST_RECONNECT_S), False
                failovers = failovers_of(redis)
                # A former master may not receive what is published to the new one.
                while failovers_of(redis) == failovers:
                    message = await pubsub.get_message(timeout=_POLL_S)
                    if message is not None:
                        await listener.on_message(message["data"])
            listener.on_lost()
            log.info("channel_moved", channel=channel)
        except (*STORE_ERRORS, InferlaneError) as error:
            listener.on_lost()
            if not has_lost:
                log.warning("channel_lost", channel=channel, error=repr(error))
            has_lost = True
            await asyncio.sleep(next(waits))


# Above this number half are dropped: first the expired ones, then those that expire soonest. A small limit lets workers
# compute cancelled requests when many are cancelled, a large one takes memory in every worker: 0.2 kB an id.
_MOST = 20_000


class Cancellations:
    """Writes cancellations. They only save computing time; the request's terminal result is authoritative."""

    def __init__(self, redis: "Redis", *, redis_url: str, clock: "Clock", names: "Names") -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._clock = clock
        self._key, self._channel = _key_and_channel(names)

    async def add(self, request_id: str, *, until_s: float) -> None:
        """Tell every worker to skip the request; forgotten at `until_s`, seconds since the epoch.

        Raises:
            UnavailableError: the store does not answer.
        """
        now_s = self._clock.now_s()
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zremrangebyscore(self._key, "-inf", now_s)
            pipeline.zadd(self._key, {request_id: until_s})
            pipeline.zremrangebyrank(self._key, 0, -_MOST - 1)
            # The key outlives all its members: a later deadline extends its life, an earlier one never shortens it.
            pipeline.expire(self._key, max(1, int(until_s - now_s) + 1), nx=True)
            pipeline.expire(self._key, max(1, int(until_s - now_s) + 1), gt=True)
            await pipeline.execute()
            # Sent by itself: a cluster's client does not accept it in a pipeline.
            await self._redis.publish(self._channel, _message(request_id, until_s))


class CancelledRequests:
    """The ids that are cancelled now, followed in the background. Used from one event loop."""

    def __init__(self, redis: "Redis", *, clock: "Clock", names: "Names") -> None:
        self._redis = redis
        self._clock = clock
        self._key, self._channel = _key_and_channel(names)
        self._until_s: dict[str, float] = {}
        listener = Listener(on_open=self._read_all, on_message=self._take, on_lost=lambda: None)
        self._background = Background(partial(follow_channel, redis, self._channel, listener), name="cancellations")

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._until_s

    @property
    def is_running(self) -> bool:
        """Whether cancellations still arrive."""
        return self._background.is_running

    def start(self) -> None:
        """Start to follow. If the store is unavailable, retry in the background."""
        self._background.start()

    async def close(self) -> None:
        """Stop following."""
        await self._background.close()

    async def _read_all(self) -> None:
        # redis-py's type covers every protocol and option; these give pairs of bytes and float.
        held: Any = await self._redis.zrange(
            self._key, "+inf", self._clock.now_s(), desc=True, byscore=True, offset=0, num=_MOST, withscores=True
        )
        self._until_s = {member.decode(errors="replace"): until_s for member, until_s in held}

    async def _take(self, message: bytes) -> None:
        until_s, _, request_id = message.decode(errors="replace").partition(" ")
        try:
            self._until_s[request_id] = float(until_s)
        except ValueError:
            # A message of somebody else: it names no request.
            return
        if len(self._until_s) > _MOST:
            latest = sorted(self._until_s.items(), key=lambda held: held[1])[-_MOST // 2 :]
            now_s = self._clock.now_s()
            self._until_s = {held: until for held, until in latest if until > now_s}


def _key_and_channel(names: "Names") -> tuple[str, str]:
    return names.store_key("cancelled"), names.store_key("cancel")


def _message(request_id: str, until_s: float) -> str:
    return f"{until_s} {request_id}"

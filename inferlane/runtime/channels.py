"""Following a Redis channel for ever. A message may be lost, so whoever follows re-reads the truth when told to."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import structlog

from inferlane.errors import InferlaneError
from inferlane.runtime.store_connection import STORE_ERRORS, failovers_of, know_nodes

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_RECONNECT_S = 0.2
# A store that denies the channel is asked less often: a person has to mend it.
_LONGEST_RECONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What to do with a channel. Errors of ours or of the store lead to a new subscription."""

    # Subscribed; what was published before this moment is missed and must be read where it is kept.
    on_open: Callable[[], Awaitable[None]]
    on_message: Callable[[bytes], Awaitable[None]]
    on_lost: Callable[[], None]


async def follow_channel(redis: "Redis", channel: str, listener: Listener) -> NoReturn:
    """Hand every message to the listener until cancelled; subscribes anew when the store was away or failed over."""
    retry_s = _RECONNECT_S
    while True:
        try:
            await know_nodes(redis)
            async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(channel)
                await listener.on_open()
                retry_s, failovers = _RECONNECT_S, failovers_of(redis)
                # A node that is no longer the one to ask may hear nothing of what is published elsewhere.
                while failovers_of(redis) == failovers:
                    message = await pubsub.get_message(timeout=_POLL_S)
                    if message is not None:
                        await listener.on_message(message["data"])
            listener.on_lost()
            log.info("channel_moved", channel=channel)
        except (*STORE_ERRORS, InferlaneError) as error:
            listener.on_lost()
            if retry_s == _RECONNECT_S:
                log.warning("channel_lost", channel=channel, error=repr(error))
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _LONGEST_RECONNECT_S)

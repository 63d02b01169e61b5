"""What is under a result's key and was not written by us: it is removed, so that only its own request is affected."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import structlog
from redis.exceptions import ResponseError

from inferlane.contracts.results import Result, decode_result
from inferlane.errors import DecodeError, UnavailableError, clipped
from inferlane.runtime.error_remedies import Remedy, remedy_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Scripts of one key, so that a cluster runs them too, and what another process has written meanwhile is kept. `GET`
# tells the type: an ACL user may lack the right to `TYPE`.
_REMOVE_WRONG_TYPE = """
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' and held.err and string.find(held.err, 'WRONGTYPE') then
  return redis.call('DEL', KEYS[1])
end
return 0
"""
# ARGV: the value as it was read.
_REMOVE_UNREADABLE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
"""


async def despite_wrong_types(redis: "Redis", keys: Callable[[], Sequence[str]], call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` returns. If one of its keys is of another type than a string, remove that and call again.

    Raises:
        RedisError: as `call` and the client do.
    """
    try:
        return await call()
    except ResponseError as error:
        if remedy_of(error) is not Remedy.REFUSE:
            raise
    remove = redis.register_script(_REMOVE_WRONG_TYPE)
    for key in keys():
        if await remove(keys=[key]):
            log.warning("key_of_wrong_type_removed", key=key, effect="it is written anew, as a string")
    return await call()


async def put_despite_damage(
    redis: "Redis", keys: Callable[[], Sequence[str]], put: Callable[[], Awaitable[Sequence[bytes | None]]]
) -> list[Result | None]:
    """Return the results that were under `keys` before `put` wrote its own where there was none.

    What is no result is removed, and `put` called again: it then finds what it wrote itself the first time.

    Raises:
        UnavailableError: something else that is no result has come under a key meanwhile.
        RedisError: as `put` and the client do.
    """
    earlier = await despite_wrong_types(redis, keys, put)
    try:
        return [None if raw is None else decode_result(raw) for raw in earlier]
    except DecodeError:
        remove = redis.register_script(_REMOVE_UNREADABLE)
        for key, raw in zip(keys(), earlier, strict=True):
            if raw is not None and readable(raw, key) is None:
                await remove(keys=[key], args=[raw])
    try:
        return [None if raw is None else decode_result(raw) for raw in await put()]
    except DecodeError as error:
        raise UnavailableError(f"a stored result was replaced by what is no result: {error}; try again") from error


def readable(raw: bytes, key: str) -> Result | None:
    """Return the result that is stored under `key`; None, as if there were none, for bytes that are no result."""
    try:
        return decode_result(raw)
    except DecodeError as error:
        log.warning("unreadable_result", key=key, bytes=len(raw), error=clipped(str(error)), effect="it is ignored")
        return None

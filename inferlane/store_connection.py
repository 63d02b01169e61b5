"""Connections to the store: one that leads to a node which cannot help any more is replaced."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import OutOfMemoryError, RedisError

from inferlane.errors import NotServedError, StoreFullError, UnavailableError
from inferlane.mending import Mend, mend_of

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 32
# A connection that was quiet for so long is asked first: one half-open would look subscribed for ever.
_HEALTH_CHECK_S = 10


@dataclass(slots=True)
class Failovers:
    """How often a node of the store said that another is the one to ask; whoever only listens looks here."""

    count: int = 0


class _Replaceable:
    """A connection that gives itself up when its node is no longer the one to ask.

    redis-py connects anew and repeats a command after a `ConnectionError`; after `READONLY` it would stay where it is.
    """

    def __init__(self, *, failovers: Failovers, **options: Any) -> None:
        super().__init__(**options)
        self._failovers = failovers

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read an answer; one that another node would not give becomes a lost connection."""
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]  # of the class beside it
        except RedisError as error:
            if isinstance(error, StoreConnectionError) or mend_of(error) is not Mend.RECONNECT:
                raise
            self._failovers.count += 1
            await self.disconnect()  # type: ignore[attr-defined]  # as above
            raise StoreConnectionError(f"the node is not the one to ask any more: {error}") from error


class _PlainConnection(_Replaceable, Connection):
    pass


class _TlsConnection(_Replaceable, SSLConnection):
    pass


class _SocketConnection(_Replaceable, UnixDomainSocketConnection):
    pass


_KINDS: dict[str, type[_Replaceable]] = {
    "redis": _PlainConnection,
    "rediss": _TlsConnection,
    "unix": _SocketConnection,
}


def connect(redis_url: str) -> Redis:
    """A client that fails fast; whoever calls decides whether to try again."""
    # Callers over the limit wait for a connection; redis-py's own default refuses them, which a burst would see as an
    # outage.
    pool = BlockingConnectionPool.from_url(
        redis_url,
        max_connections=_MAX_CONNECTIONS,
        timeout=_ANSWER_TIMEOUT_S,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        socket_timeout=_ANSWER_TIMEOUT_S,
        health_check_interval=_HEALTH_CHECK_S,
        retry=Retry(NoBackoff(), 1),
        failovers=Failovers(),
    )
    # Not an argument: what the URL says would win over it.
    pool.connection_class = _KINDS[urlsplit(redis_url).scheme]  # type: ignore[assignment]  # each is a connection too
    return Redis.from_pool(pool)


def failovers_of(redis: Redis) -> int:
    """How often a node said to this client that another is the one to ask."""
    failovers = redis.connection_pool.connection_kwargs.get("failovers")
    return failovers.count if isinstance(failovers, Failovers) else 0


@asynccontextmanager
async def store_errors(redis_url: str) -> AsyncIterator[None]:
    """Turn the client's errors into ours.

    Raises:
        StoreFullError: the store has no room.
        UnavailableError: the store is down, or refuses the write for now.
        NotServedError: the store denies the call, or does not know it: no retry mends that.
    """
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise store_failure(error, redis_url) from error


def store_failure(error: BaseException, redis_url: str) -> UnavailableError:
    """The error of ours for one of the client's."""
    where = f"the result store at {without_password(redis_url)}"
    what = f"{type(error).__name__}: {error}"
    if mend_of(error) is Mend.STOP:
        return NotServedError(
            f"{where} does not serve us: {what}. Check the user, password and rights in INFERLANE_REDIS_URL, whether "
            "it is a cluster, and its version; docs/connections.md lists what is needed."
        )
    if isinstance(error, OutOfMemoryError):
        return StoreFullError(
            f"{where} is full and takes no write: {error}. Raise its maxmemory, or keep results for a shorter time "
            "(INFERLANE_RESULT_TTL_S)."
        )
    return UnavailableError(f"{where} did not take the call: {what}")


def without_password(redis_url: str) -> str:
    """The URL as it may be shown: scheme, host, port and database."""
    parts = urlsplit(redis_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

"""Connections to the store; after a failover they are replaced by connections to the new master."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import urlsplit

from hiredis import pack_command
from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    Redis,
    RedisCluster,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisClusterException, RedisError

from inferlane.errors import NotServedError, StoreFullError, UnavailableError
from inferlane.runtime.error_remedies import Remedy, remedy_of
from inferlane.runtime.redis.url import StoreAddress, StoreKind, parse_store_url, without_password

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 32
# The connections to each node of a cluster: more than ever run at once, as its client refuses more and does not wait.
_MAX_NODE_CONNECTIONS = 1_000
_SENT_AT_ONCE_BYTES = 48 * 1024  # less than asyncio buffers before a writer has to wait (64 KiB)
# After a failover the client asks for the new layout of the cluster and sends the command to another node.
_CLUSTER_RETRIES = 3
# A connection that was idle for this long is pinged first: a half-open one would look subscribed for ever.
_HEALTH_CHECK_S = 10


@dataclass(slots=True)
class Failovers:
    """The number of times that a node redirected us; a subscriber, which sends no commands, checks it."""

    count: int = 0


class _Replaceable:
    """A connection that closes itself when its node is no longer the master.

    redis-py reconnects and repeats a command after a `ConnectionError`; after `READONLY` it would keep the connection.
    """

    def __init__(self, *, failovers: Failovers, **options: Any) -> None:
        super().__init__(**options)
        self._failovers = failovers

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read an answer; one that only a former master gives becomes a lost connection."""
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]  # of the class beside it
        except RedisError as error:
            if isinstance(error, StoreConnectionError):
                # The connection of a Sentinel's client has already closed itself.
                self._failovers.count += isinstance(error.__context__, ReadOnlyError)
                raise
            if remedy_of(error) is not Remedy.RECONNECT:
                raise
            self._failovers.count += 1
            await self.disconnect()  # type: ignore[attr-defined]  # as above
            raise StoreConnectionError(f"the node is not the one to ask any more: {error}") from error

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command. One that the socket surely takes at once has no task and timer to wait for that."""
        writer = self._writer  # type: ignore[attr-defined]  # as above
        is_small = isinstance(command, list) and sum(map(len, command)) <= _SENT_AT_ONCE_BYTES
        if not is_small or writer is None or writer.transport.get_write_buffer_size():
            await super().send_packed_command(command, check_health)  # type: ignore[misc]  # as above
            return
        if check_health:
            await self.check_health()  # type: ignore[attr-defined]  # as above
        try:
            await self._send_packed_command(command)  # type: ignore[attr-defined]  # as above
        except BaseException as error:
            # As redis-py does: who comes next would read the answer of this command.
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]  # as above
            if isinstance(error, OSError):
                raise StoreConnectionError(f"the command was not written: {error!r}") from error
            raise

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """Encode a command in C: redis-py does so argument by argument, and a batch of results has three for each."""
        name, *others = arguments
        words = (name.encode() if isinstance(name, str) else name).split()
        try:
            return [pack_command((*words, *others))]
        except TypeError:
            # A memoryview; or nothing that can be sent, of which redis-py says why.
            packed: list[bytes] = super().pack_command(*arguments)  # type: ignore[misc]  # as above
            return packed


class _PlainConnection(_Replaceable, Connection):
    pass


class _TlsConnection(_Replaceable, SSLConnection):
    pass


class _SocketConnection(_Replaceable, UnixDomainSocketConnection):
    pass


class _MasterConnection(_Replaceable, SentinelManagedConnection):
    pass


class _TlsMasterConnection(_Replaceable, SentinelManagedSSLConnection):
    pass


_KINDS: dict[str, type[_Replaceable]] = {
    "redis": _PlainConnection,
    "rediss": _TlsConnection,
    "unix": _SocketConnection,
}


_COMMON: Mapping[str, Any] = {
    "socket_connect_timeout": _CONNECT_TIMEOUT_S,
    "socket_timeout": _ANSWER_TIMEOUT_S,
    "health_check_interval": _HEALTH_CHECK_S,
}


class StoreCluster(RedisCluster):
    """A cluster's client that connects with its first command, so creating it does not wait for the cluster."""

    async def __aenter__(self) -> Self:
        return self


class _MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master; the Sentinels are asked for it anew for each connection."""


def connect(redis_url: str) -> Redis:
    """Return a client that fails fast; the caller decides whether to retry.

    For a cluster it is a `StoreCluster`, which has the same commands; only this module knows the differences.
    """
    address = parse_store_url(redis_url)
    if address.kind is StoreKind.CLUSTER:
        return cast("Redis", _connect_cluster(address))
    if address.kind is StoreKind.SENTINEL:
        return _connect_sentinels(address)
    # Callers over the limit wait for a connection; redis-py's own default refuses them, which a burst would see as an
    # outage.
    pool = BlockingConnectionPool.from_url(
        redis_url,
        max_connections=_MAX_CONNECTIONS,
        timeout=_ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
        failovers=Failovers(),
        **_COMMON,
    )
    # Set here and not passed as an argument, over which the URL would win.
    pool.connection_class = _KINDS[urlsplit(redis_url).scheme]  # type: ignore[assignment]  # each is a connection too
    return Redis.from_pool(pool)


def _login(address: StoreAddress) -> dict[str, Any]:
    options = {name: value for name, value in address.options if not name.startswith("sentinel_")}
    return {"username": address.username, "password": address.password, **options}


def _connect_sentinels(address: StoreAddress) -> Redis:
    sentinel_login = {
        name.removeprefix("sentinel_"): value for name, value in address.options if name.startswith("sentinel_")
    }
    tls = {name: value for name, value in address.options if name.startswith("ssl_")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py left it untyped
        address.hosts, sentinel_kwargs={"ssl": address.has_tls, **tls, **sentinel_login, **_COMMON}
    )
    pool = _MasterPool(  # type: ignore[no-untyped-call]  # as above
        address.service,
        sentinel,
        connection_class=_TlsMasterConnection if address.has_tls else _MasterConnection,
        max_connections=_MAX_CONNECTIONS,
        timeout=_ANSWER_TIMEOUT_S,
        db=address.db,
        retry=Retry(NoBackoff(), 1),
        failovers=Failovers(),
        **_COMMON,
        **_login(address),
    )
    return Redis.from_pool(pool)


def _connect_cluster(address: StoreAddress) -> StoreCluster:
    return StoreCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
        ssl=address.has_tls,
        max_connections=_MAX_NODE_CONNECTIONS,
        retry=Retry(NoBackoff(), _CLUSTER_RETRIES),
        **_COMMON,
        **_login(address),
    )


def is_cluster(redis: Redis) -> bool:
    """Return whether keys lie on several nodes: then one command or script may use keys of one slot only."""
    return _cluster_of(redis) is not None


def _cluster_of(client: object) -> StoreCluster | None:
    return client if isinstance(client, StoreCluster) else None


async def get_many(redis: Redis, keys: Sequence[str]) -> list[Any]:
    """Return the values of the keys, None for a missing one; on a cluster they are not read at one moment."""
    if (cluster := _cluster_of(redis)) is not None:
        return list(await cluster.mget_nonatomic(keys))
    return list(await redis.mget(keys))


async def memory_infos(redis: Redis) -> list[Mapping[str, Any]]:
    """`INFO memory` of each node that takes writes."""
    if (cluster := _cluster_of(redis)) is None:
        return [await redis.info("memory")]
    found = await cluster.info("memory", target_nodes=StoreCluster.PRIMARIES)
    # The answer of a single node is not keyed by node.
    return [found] if "used_memory" in found else list(found.values())


def failovers_of(redis: Redis) -> int:
    """Return how often a node redirected this client to another one."""
    if is_cluster(redis):
        # A cluster's client follows redirections by itself.
        return 0
    failovers = redis.connection_pool.connection_kwargs.get("failovers")
    return failovers.count if isinstance(failovers, Failovers) else 0


async def know_nodes(redis: Redis) -> None:
    """Read the nodes of a cluster if they are not known yet: a subscription needs them."""
    if (cluster := _cluster_of(redis)) is not None:
        await cluster.initialize()


# The errors that the client raises for a failed call to the store.
STORE_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)


async def ping(redis: Redis, *, redis_url: str) -> None:
    """Return when the store answers.

    Raises:
        UnavailableError: it does not.
    """
    async with store_errors(redis_url):
        await redis.ping()


@asynccontextmanager
async def store_errors(redis_url: str) -> AsyncIterator[None]:
    """Turn the client's errors into ours.

    Raises:
        StoreFullError: the store has no room.
        UnavailableError: the store is down, or refuses the write for now.
        NotServedError: the store denies the call, or does not know it: retries do not help.
    """
    try:
        yield
    except STORE_ERRORS as error:
        raise store_failure(error, redis_url) from error


def store_failure(error: BaseException, redis_url: str) -> UnavailableError:
    """Return the Inferlane error for an error of the client."""
    where = f"the result store at {without_password(redis_url)}"
    what = f"{type(error).__name__}: {error}"
    if remedy_of(error) is Remedy.STOP:
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

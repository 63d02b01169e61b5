"""A store that fails over on real Valkeys: connections that are left on the old node are replaced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from inferlane.contracts.naming import Names
from inferlane.contracts.results import Result, Status
from inferlane.errors import NotServedError, UnavailableError
from inferlane.runtime.redis.cancellations import Listener, follow_channel
from inferlane.runtime.redis.connection import connect, failovers_of
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.store_probe import StoreProbe
from inferlane.runtime.retry import Retrier
from tests.support.parts import embedded_store, eventually, free_port

WITHIN_S = 60.0


class Address:
    """A name that two nodes share: new connections go where it points, old ones stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.target)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(_copy(reader, node_writer), _copy(node_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while some := await reader.read(65_536):
        writer.write(some)
        await writer.drain()
    writer.close()


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/", maxsplit=1)[0])


def result(request_id: str) -> Result:
    return Result(request_id=request_id, status=Status.SUCCEEDED, model="iris", version="v1", content=b"x")


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Address, str, str]]:
    """Yields the shared address, which points at the first node, and both nodes."""
    async with embedded_store() as first, embedded_store() as second:
        address = Address(port_of(first))
        server = await asyncio.start_server(address.serve, "127.0.0.1", address.port)
        try:
            yield address, first, second
        finally:
            server.close()


async def fail_over(address: Address, first: str, second: str) -> None:
    """The first node becomes a replica, which takes no writes, and the address points at the second."""
    async with connect(first) as node:
        await node.execute_command("REPLICAOF", "127.0.0.1", port_of(second))
    address.target = port_of(second)


async def test_every_write_goes_to_the_new_node_at_once() -> None:
    """Guards `_Replaceable`: without it every answer is late until somebody kills the connections."""
    async with two_nodes() as (address, first, second), connect(address.url) as redis:
        store = ResultStore(redis, redis_url=address.url, result_ttl_s=60, names=Names())
        await asyncio.gather(*(store.put([result(f"before-{n}")]) for n in range(8)))
        await fail_over(address, first, second)
        async with asyncio.timeout(WITHIN_S):
            for n in range(20):
                assert await store.put([result(f"after-{n}")]) == [result(f"after-{n}")]
            # A script, a command of its own, and a pipeline.
            assert await redis.set("key", b"value")
            async with redis.pipeline(transaction=True) as pipeline:
                assert await pipeline.set("key", b"new").get("key").execute() == [True, b"new"]
        assert failovers_of(redis) > 0


async def test_who_listens_listens_to_the_new_node() -> None:
    """Guards the look at `failovers_of` in `follow_channel`: an old node that is cut off hears nothing."""
    async with two_nodes() as (address, first, second), connect(address.url) as redis:
        opened, heard = asyncio.Semaphore(0), asyncio.Queue[bytes]()

        async def on_open() -> None:
            opened.release()

        listener = Listener(on_open=on_open, on_message=heard.put, on_lost=lambda: None)
        following = asyncio.create_task(follow_channel(redis, "news", listener))
        async with asyncio.timeout(WITHIN_S):
            await opened.acquire()
            # A second connection, which finds out.
            await redis.set("key", b"value")
            await fail_over(address, first, second)
            await redis.set("key", b"value")
            await opened.acquire()
            async with connect(second) as node:
                assert await node.pubsub_numsub("news") == [(b"news", 1)]
                await node.publish("news", b"told")
            assert await heard.get() == b"told"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_store_that_takes_no_writes_is_not_called_ready() -> None:
    """Guards `StoreProbe`: reads go well on a replica."""
    async with embedded_store() as url, connect(url) as redis:
        probe = StoreProbe(redis, redis_url=url, names=Names())
        assert not probe.takes_writes
        probe.start()

        async def takes_writes() -> bool:
            return probe.takes_writes

        async def takes_none() -> bool:
            return not probe.takes_writes

        await eventually(takes_writes)
        async with connect(url) as admin:
            await admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
        await eventually(takes_none)
        async with connect(url) as admin:
            await admin.execute_command("REPLICAOF", "NO", "ONE")
        await eventually(takes_writes)
        await probe.close()


async def test_a_user_without_rights_is_told_and_not_tried_again() -> None:
    async with embedded_store() as url, connect(url) as admin:
        await admin.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+get")
        denied = url.replace("redis://", "redis://reader:secret@")
        async with connect(denied) as redis:
            store = ResultStore(redis, redis_url=denied, result_ttl_s=60, names=Names())
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(NotServedError, match="rights") as denial:
                    await Retrier().until_done(lambda: store.put([result("r")]), stage="results")
            assert "secret" not in str(denial.value)
        wrong = url.replace("redis://", "redis://reader:wrong@")
        async with connect(wrong) as redis:
            with pytest.raises(NotServedError):
                await ResultStore(redis, redis_url=wrong, result_ttl_s=60, names=Names()).get(["r"])


async def test_a_store_that_is_away_is_worth_another_try() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with connect(url) as redis:
        with pytest.raises(UnavailableError) as away:
            await ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names()).get(["r"])
        assert not isinstance(away.value, NotServedError)

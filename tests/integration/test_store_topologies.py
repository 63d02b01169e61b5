"""A store that is a cluster, or a master that Sentinels watch, on real Valkeys."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from control_plane.local.doctor_checks import check_store
from control_plane.local.embedded_parts import store_answers, store_argv
from inferlane.contracts.naming import Names
from inferlane.contracts.results import Accepted, Result, Status
from inferlane.errors import NotServedError
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.redis.cancellations import Cancellations, CancelledRequests
from inferlane.runtime.redis.connection import connect, memory_infos
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.version_faults import VersionFaults
from inferlane.runtime.redis.window_store import WindowStore
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.service_settings import ApiSettings
from producer_api.predict.idempotency import Claim, ClaimStore
from producer_api.predict.pending import PendingRequests
from tests.support.parts import embedded_store, eventually, free_port, running
from tests.support.waiters import added

WITHIN_S = 60.0
SLOTS = 16_384


def result(request_id: str, content: bytes = b"x") -> Result:
    return Result(request_id=request_id, status=Status.SUCCEEDED, model="iris", version="v1", content=content)


ACCEPTED = Accepted(model="iris", version="v1", accepted_s=1.0, deadline_s=2.0)


@asynccontextmanager
async def cluster(folder: Path, nodes: int) -> AsyncIterator[list[int]]:
    """Yields the ports of nodes that share all slots."""
    ports = [_cluster_port() for _ in range(nodes)]
    async with AsyncExitStack() as stack:
        for port in ports:
            (folder / str(port)).mkdir()
            more = ("--cluster-enabled", "yes", "--dir", str(folder / str(port)), "--cluster-node-timeout", "2000")
            url = f"redis://127.0.0.1:{port}"
            await stack.enter_async_context(
                running((*store_argv(port, maxmemory_mib=32), *more), lambda url=url: store_answers(url))  # type: ignore[misc]
            )
        clients = [await stack.enter_async_context(Redis(port=port)) for port in ports]
        bounds = [SLOTS * n // nodes for n in range(nodes + 1)]
        for client, first, behind in zip(clients, bounds, bounds[1:], strict=False):
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, behind - 1)
            await client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])

        async def is_whole() -> bool:
            infos = [bytes(await client.execute_command("CLUSTER", "INFO")) for client in clients]
            return all(b"cluster_state:ok" in info and b"known_nodes:%d" % nodes in info for info in infos)

        await eventually(is_whole)
        yield ports


def _cluster_port() -> int:
    """One whose bus, 10,000 above, is a port too."""
    while (port := free_port()) > 55_000:
        pass
    return port


async def use_all(settings: Settings) -> None:
    """Everything that we do with a store."""
    names, url = Names(), settings.store.redis_url
    async with asyncio.timeout(WITHIN_S), connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=names)
        pending = PendingRequests(store, redis, instance="api-1", max_waiters=100)
        await pending.start()
        # Ids that begin or end with what a tag ends with, too.
        ids = [*(f"request-{n}" for n in range(50)), "}", "}{", "a}b", "{}"]
        waiters = {request_id: added(pending, request_id) for request_id in ids}
        for request_id in ids:
            await store.mark_accepted(request_id, ACCEPTED, ttl_s=60)
        results = [result(request_id) for request_id in ids]
        assert await store.put(results, wake={"api-1": results}) == results
        for request_id in ids:
            assert await pending.wait(waiters[request_id], WITHIN_S) == result(request_id)
            assert await store.find(request_id) == result(request_id)
            assert await store.accepted(request_id) is None
        assert await store.get([*ids, "never"]) == [*results, None]
        later = [result(request_id, b"later") for request_id in ids]
        assert await store.put(later) == results
        await pending.close()
        await redis.set(store._result_key("unreadable"), b"garbage")
        await redis.zadd(store._result_key("wrong-type"), {"x": 1})
        odd = [result(request_id) for request_id in ("unreadable", "wrong-type", "beside")]
        assert await store.put([*odd, later[0]]) == [*odd, results[0]]
        failed = Result(request_id="f", status=Status.FAILED, model="iris", version="v1", error_code="model_error")
        await store.put([failed])
        assert await store.reopen("f", ACCEPTED, ttl_s=60) is None
        assert await store.find("f") == ACCEPTED
        assert await store.reopen(ids[0], ACCEPTED, ttl_s=60) == results[0]

        cancelled = CancelledRequests(redis, clock=SystemClock(), names=names)
        cancelled.start()
        await Cancellations(redis, redis_url=url, clock=SystemClock(), names=names).add("c", until_s=time.time() + 60)

        async def is_cancelled() -> bool:
            return "c" in cancelled

        await eventually(is_cancelled)
        await cancelled.close()
        claims = ClaimStore(redis, redis_url=url, names=names)
        claim = Claim("r", "print", is_enqueued=False)
        assert await claims.claim("key", claim, ttl_s=60) == claim
        windows = WindowStore(redis, redis_url=url, slot_s=5, keep_s=60, names=names)
        await windows.put([], publisher="router")
        assert (await windows.read("iris", "v1", window_s=60, now_s=1000)).requests == 0
        faults = VersionFaults(redis, redis_url=url, names=names)
        await faults.report("iris", "v1", "cannot be loaded")
        assert await faults.read([("iris", "v1"), ("iris", "v2"), ("digits", "v1")]) == {
            ("iris", "v1"): "cannot be loaded"
        }
        assert {info["maxmemory_policy"] for info in await memory_infos(redis)} == {"noeviction"}
    assert "result and wake-up came back" in await check_store(
        settings.api, settings.store.redis_url, settings.stack.names
    )


@pytest.mark.parametrize("nodes", [1, 3])
async def test_a_cluster_does_all_that_one_node_does(tmp_path: Path, nodes: int) -> None:
    """Guards `_tagged` and `_put_over_slots`: without either, CROSSSLOT."""
    async with cluster(tmp_path, nodes) as ports:
        places = ",".join(f"127.0.0.1:{port}" for port in ports)
        await use_all(load_settings(redis_url=f"redis+cluster://{places}"))


async def test_a_cluster_that_is_given_as_one_node_is_told_from_one(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as ports:
        # A result and its mark lie in two slots, and most slots are with another node.
        with pytest.raises(NotServedError, match="whether it is a cluster"):
            await check_store(ApiSettings(), f"redis://127.0.0.1:{ports[0]}/0", Names())


@asynccontextmanager
async def sentinel(folder: Path, master_url: str) -> AsyncIterator[int]:
    """Yields the port of a Sentinel that watches the master as `mymaster`, and fails over within seconds."""
    port, master_port = free_port(), int(master_url.split(":")[2].split("/", maxsplit=1)[0])
    rules = folder / "sentinel.conf"
    rules.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor mymaster 127.0.0.1 {master_port} 1\n"
        "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 2000\n"
    )
    server = store_argv(port, maxmemory_mib=1)[0]
    async with running((server, str(rules), "--sentinel"), lambda: store_answers(f"redis://127.0.0.1:{port}")):
        yield port


async def test_a_master_that_sentinels_name_does_all_that_one_node_does_and_is_followed(tmp_path: Path) -> None:
    async with embedded_store() as first, embedded_store() as second, sentinel(tmp_path, first) as port:
        settings = load_settings(redis_url=f"redis+sentinel://127.0.0.1:{port}/mymaster/0")
        await use_all(settings)
        first_port, second_port = (int(url.split(":")[2].split("/")[0]) for url in (first, second))
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(connect(second))
            old_master = await stack.enter_async_context(connect(first))
            watch = await stack.enter_async_context(Redis(port=port))
            redis = await stack.enter_async_context(connect(settings.store.redis_url))
            await node.execute_command("REPLICAOF", "127.0.0.1", first_port)
            store = ResultStore(redis, redis_url=settings.store.redis_url, result_ttl_s=60, names=Names())
            await store.put([result("before")])

            async def is_known() -> bool:
                return bool(await watch.execute_command("SENTINEL", "REPLICAS", "mymaster"))

            await eventually(is_known)

            async def fails_over() -> bool:
                try:
                    await watch.execute_command("SENTINEL", "FAILOVER", "mymaster")
                except Exception:  # noqa: BLE001 - until the replica is seen to be a good one
                    return False
                return True

            await eventually(fails_over)

            async def is_moved() -> bool:
                address = await watch.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
                (role, *_) = await old_master.execute_command("ROLE")
                return int(address[1]) == second_port and role == b"slave"

            await eventually(is_moved)
            # Without a retry of ours, on the connection that still leads to the old master.
            await store.put([result("after")])
            async with connect(second) as master:
                direct = ResultStore(master, redis_url=second, result_ttl_s=60, names=Names())
                assert await direct.get(["before", "after"]) == [result("before"), result("after")]

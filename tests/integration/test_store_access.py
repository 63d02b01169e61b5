"""Getting in to the store: TLS, an ACL user with no more rights than we need, and passwords that nobody prints."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from redis.exceptions import NoPermissionError

from control_plane.autoscaling.capacity_plan import WorkerPace
from control_plane.kubernetes.backing_services import (
    TLS_FOLDER,
    USERS_FILE,
    USERS_FOLDER,
    secret_document,
    store_arguments,
)
from control_plane.kubernetes.deployment_plan import Waits, make_plan
from control_plane.kubernetes.pod_settings import cluster_settings
from control_plane.local.doctor_checks import check_store
from control_plane.local.embedded_parts import store_answers, store_argv
from inferlane.contracts.naming import Names
from inferlane.contracts.results import Result, Status
from inferlane.contracts.traffic_split import Served
from inferlane.errors import UnavailableError
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.redis.cancellations import Cancellations, CancelledRequests
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.served_versions import ServedVersions
from inferlane.runtime.redis.version_faults import VersionFaults
from inferlane.runtime.redis.window_store import WindowStore
from inferlane.runtime.retry import SystemClock
from producer_api.predict.pending import PendingRequests
from tests.support.brokers.apache.security import Security
from tests.support.parts import eventually, free_port, running
from tests.support.waiters import added

PASSWORD = "a:password/with@all#of?it"  # noqa: S105 - of a store that lives as long as a test
ESCAPED = "a%3Apassword%2Fwith%40all%23of%3Fit"
# For the test's own eyes.
ADMIN = "user admin on >admin ~* &* +@all"
CONNECTIONS = Path(__file__).parents[2] / "docs" / "connections.md"


def acl_line() -> str:
    """The user as the docs say it."""
    found = re.search(r"^    (user inferlane .*)$", CONNECTIONS.read_text(), flags=re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    """A store whose only user is the one of the docs."""
    rules = tmp_path / "users.acl"
    rules.write_text(f"{acl_line().replace('PASSWORD', PASSWORD)}\nuser default off\n{ADMIN}\n")
    port = free_port()
    settings = load_settings(redis_url=f"redis://inferlane:{ESCAPED}@127.0.0.1:{port}/0")
    argv = (*store_argv(port, maxmemory_mib=64), "--aclfile", str(rules))
    async with running(argv, lambda: store_answers(settings.store.redis_url)):
        yield settings


async def test_the_documented_user_may_do_all_that_we_do_and_nothing_else(settings: Settings) -> None:
    result = Result(request_id="a", status=Status.FAILED, model="iris", version="v1", error_code="model_error")
    async with connect(settings.store.redis_url) as redis:
        store = ResultStore(redis, redis_url=settings.store.redis_url, result_ttl_s=60, names=Names())
        pending = PendingRequests(store, redis, instance="api-1", max_waiters=1)
        await pending.start()
        waiter = added(pending, "a")
        assert await store.put([result]) == [result]
        await store.wake("api-1", [result])
        assert await pending.wait(waiter, 60) == result
        await pending.close()
        assert await store.get(["a"]) == [result]
        await redis.set(Names().store_key("result", "b"), b"no result")
        await redis.zadd(Names().store_key("result", "c"), {"x": 1})
        others = [replace(result, request_id=request_id) for request_id in "bc"]
        assert await store.put(others) == others
        windows = WindowStore(redis, redis_url=settings.store.redis_url, slot_s=5, keep_s=60, names=Names())
        assert not await windows.put([], publisher="router")
        assert (await windows.read("iris", "v1", window_s=10, now_s=1000)).requests == 0
        clock, access = SystemClock(), {"redis_url": settings.store.redis_url, "names": Names()}
        await Cancellations(redis, clock=clock, **access).add("a", until_s=clock.now_s() + 60)  # type: ignore[arg-type]
        cancelled = CancelledRequests(redis, clock=clock, names=Names())
        cancelled.start()
        await eventually(lambda: _holds(cancelled, "a"))
        await cancelled.close()
        served = ServedVersions(redis, clock=clock, **access)  # type: ignore[arg-type]
        await served.say("iris", "v1", default_version="v1")
        await served.read()
        assert served.get("iris") == Served("v1", {"v1"})
        faults = VersionFaults(redis, **access)  # type: ignore[arg-type]
        await faults.report("iris", "v1", "no file")
        assert await faults.read([("iris", "v1")])
        await faults.clear("iris", "v1")
        assert "noeviction" in await check_store(settings.api, settings.store.redis_url, settings.stack.names)
        clock = SystemClock()
        cancelled = CancelledRequests(redis, clock=clock, names=Names())
        cancelled.start()
        cancellations = Cancellations(redis, redis_url=settings.store.redis_url, clock=clock, names=Names())
        for again_id in ("b", "c"):
            await cancellations.add(again_id, until_s=clock.now_s() + 60)

            async def is_known(wanted: str = again_id) -> bool:
                return wanted in cancelled

            await eventually(is_known)
        await cancelled.close()
        # The store's own log of what it refused.
        admin_url = re.sub("//.*@", "//admin:admin@", settings.store.redis_url)
        async with connect(admin_url) as admin:
            assert await admin.acl_log() == []
        for refused in (redis.set("other", b"1"), redis.flushall(), redis.publish("other", b"1"), redis.keys()):
            with pytest.raises(NoPermissionError):
                await refused


async def _holds(cancelled: CancelledRequests, request_id: str) -> bool:
    return request_id in cancelled


def store_of_the_manifests(folder: Path, *, store_tls: bool) -> tuple[list[str], int]:
    """The arguments of the StatefulSet, with its Secret and its paths in `folder`, and the port."""
    plan = make_plan(
        cluster_settings(load_settings(), namespace="n", store_tls=store_tls),
        [],
        namespace="n",
        image="i:1",
        pace=WorkerPace(row_s=0.001, max_batch_rows=8),
        waits=Waits(),
    )
    secret = secret_document(Names(), namespace="n", password=PASSWORD)["stringData"]
    (folder / USERS_FILE).write_text(secret[USERS_FILE])
    (folder / "data").mkdir()
    port = free_port()
    places = {"/data": folder / "data", f"{USERS_FOLDER}/": f"{folder}/", f"{TLS_FOLDER}/": f"{folder}/"}
    arguments = store_arguments(plan)[1:]
    for written, real in places.items():
        arguments = [argument.replace(written, str(real)) for argument in arguments]
    return ["--bind", "127.0.0.1", *(str(port) if each == "6379" else each for each in arguments)], port


async def test_the_store_of_the_manifests_lets_in_the_password_of_its_secret_and_nobody_else(tmp_path: Path) -> None:
    arguments, port = store_of_the_manifests(tmp_path, store_tls=False)
    url = f"redis://127.0.0.1:{port}/0"
    ours = load_settings(redis_url=url, redis_username="inferlane", redis_password=PASSWORD)
    server = store_argv(port, maxmemory_mib=64)[0]
    async with running([server, *arguments], lambda: store_answers(ours.store.redis_url)):
        assert "noeviction" in await check_store(ours.api, ours.store.redis_url, ours.stack.names)
        for strangers_url in (url, url.replace("//", "//inferlane:wr0ng@")):
            with pytest.raises(UnavailableError):
                await store_answers(strangers_url)
        # As the probes ask.
        async with connect(url.replace("//", "//probe:probe@")) as redis:
            assert await redis.ping()
            with pytest.raises(NoPermissionError):
                await redis.get("inferlane:result:a")


async def test_the_store_of_the_manifests_with_tls_is_reached_with_its_authority(tmp_path: Path) -> None:
    security = Security.make(tmp_path / "authority")
    arguments, port = store_of_the_manifests(tmp_path, store_tls=True)
    (tmp_path / "ca.crt").write_bytes(security.ca_path.read_bytes())
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_bytes(security.server_path.read_bytes())
    users = tmp_path / USERS_FILE
    # Debian 12 has Redis 7.0, which does not know this command, and does not start with a rule on it.
    users.write_text(users.read_text().replace(" +client|setinfo", ""))
    ours = load_settings(
        redis_url=f"rediss://127.0.0.1:{port}/0",
        redis_ssl_cafile=tmp_path / "ca.crt",
        redis_username="inferlane",
        redis_password=PASSWORD,
    )
    async with running([server_with_tls(), *arguments], lambda: store_answers(ours.store.redis_url)):
        assert "noeviction" in await check_store(ours.api, ours.store.redis_url, ours.stack.names)
        with pytest.raises(UnavailableError):
            await store_answers(f"redis://inferlane:{ESCAPED}@127.0.0.1:{port}/0")


async def test_a_refused_password_is_not_repeated(settings: Settings) -> None:
    wrong = settings.store.redis_url.replace("inferlane:a", "inferlane:b")
    with pytest.raises(UnavailableError) as caught:
        await store_answers(wrong)
    assert "password%2Fwith" not in str(caught.value)
    assert "redis://127.0.0.1:" in str(caught.value)
    assert "password%2Fwith" not in repr(settings)


def server_with_tls() -> str:
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        assert "CI" not in os.environ, "CI installs redis-server"
        pytest.skip("the embedded store has no TLS; apt-get install redis-server")
    return server


@asynccontextmanager
async def tls_store(security: Security) -> AsyncIterator[int]:
    port = free_port()
    argv = (
        *(server_with_tls(), "--bind", "127.0.0.1", "--port", "0", "--save", "", "--tls-port", str(port)),
        *("--tls-cert-file", str(security.server_path), "--tls-key-file", str(security.server_path)),
        *("--tls-ca-cert-file", str(security.ca_path), "--tls-auth-clients", "no"),
    )
    url = load_settings(redis_url=f"rediss://127.0.0.1:{port}/0", redis_ssl_cafile=security.ca_path).store.redis_url
    async with running(argv, lambda: store_answers(url)):
        yield port


async def test_a_store_with_tls_is_reached_with_its_authority_alone(tmp_path: Path) -> None:
    security = Security.make(tmp_path / "ours")
    other = Security.make(tmp_path / "other")
    async with tls_store(security) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        ours = load_settings(redis_url=url, redis_ssl_cafile=security.ca_path)
        assert "used" in await check_store(ours.api, ours.store.redis_url, ours.stack.names)
        for stranger in (load_settings(redis_url=url), load_settings(redis_url=url, redis_ssl_cafile=other.ca_path)):
            with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                await store_answers(stranger.store.redis_url)

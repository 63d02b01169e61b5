"""Getting in to the store: TLS, an ACL user with no more rights than we need, and passwords that nobody prints."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from inferlane.config import Settings, load_settings
from inferlane.errors import UnavailableError
from inferlane.naming import Names
from inferlane.result_store import ResultStore, connect
from inferlane.results import Result, Status
from inferlane.stack.checks import check_store
from inferlane.stack.store import store_answers, store_argv
from inferlane.window_store import WindowStore
from producer_api.waiting import WaitingRoom
from tests.brokers.apache.security import Security
from tests.integration._parts import free_port, running

PASSWORD = "a:password/with@all#of?it"  # noqa: S105 - of a store that lives as long as a test
ESCAPED = "a%3Apassword%2Fwith%40all%23of%3Fit"
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
    rules.write_text(f"{acl_line().replace('PASSWORD', PASSWORD)}\nuser default off\n")
    port = free_port()
    settings = load_settings(redis_url=f"redis://inferlane:{ESCAPED}@127.0.0.1:{port}/0")
    argv = (*store_argv(port, maxmemory_mib=64), "--aclfile", str(rules))
    async with running(argv, lambda: store_answers(settings.redis_url)):
        yield settings


async def test_the_documented_user_may_do_all_that_we_do_and_nothing_else(settings: Settings) -> None:
    result = Result(request_id="a", status=Status.FAILED, model="iris", version="v1", error_code="model_error")
    async with connect(settings.redis_url) as redis:
        store = ResultStore(redis, redis_url=settings.redis_url, result_ttl_s=60, names=Names())
        room = WaitingRoom(store, redis, instance="api-1", max_places=1)
        await room.start()
        place = room.enter("a")
        assert await store.put([result]) == [result]
        await store.wake("api-1", [result])
        assert await room.wait(place, 60) == result
        await room.close()
        assert await store.get(["a"]) == [result]
        windows = WindowStore(redis, redis_url=settings.redis_url, slot_s=5, keep_s=60, names=Names())
        assert not await windows.put([], publisher="router")
        assert (await windows.read("iris", "v1", window_s=10, now_s=1000)).requests == 0
        assert "noeviction" in await check_store(settings)
        for refused in (redis.set("other", b"1"), redis.flushall(), redis.publish("other", b"1"), redis.keys()):
            with pytest.raises(NoPermissionError):
                await refused


async def test_a_refused_password_is_not_repeated(settings: Settings) -> None:
    wrong = settings.redis_url.replace("inferlane:a", "inferlane:b")
    with pytest.raises(UnavailableError) as caught:
        await store_answers(wrong)
    assert "password%2Fwith" not in str(caught.value)
    assert "redis://127.0.0.1:" in str(caught.value)
    assert "password%2Fwith" not in repr(settings)


@asynccontextmanager
async def tls_store(security: Security) -> AsyncIterator[int]:
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        assert "CI" not in os.environ, "CI installs redis-server"
        pytest.skip("the embedded store has no TLS; apt-get install redis-server")
    port = free_port()
    argv = (
        *(server, "--bind", "127.0.0.1", "--port", "0", "--save", "", "--tls-port", str(port)),
        *("--tls-cert-file", str(security.server_path), "--tls-key-file", str(security.server_path)),
        *("--tls-ca-cert-file", str(security.ca_path), "--tls-auth-clients", "no"),
    )
    url = load_settings(redis_url=f"rediss://127.0.0.1:{port}/0", redis_ssl_cafile=security.ca_path).redis_url
    async with running(argv, lambda: store_answers(url)):
        yield port


async def test_a_store_with_tls_is_reached_with_its_authority_alone(tmp_path: Path) -> None:
    security = Security.make(tmp_path / "ours")
    other = Security.make(tmp_path / "other")
    async with tls_store(security) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        assert "used" in await check_store(load_settings(redis_url=url, redis_ssl_cafile=security.ca_path))
        for stranger in (load_settings(redis_url=url), load_settings(redis_url=url, redis_ssl_cafile=other.ca_path)):
            with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                await store_answers(stranger.redis_url)

"""Which versions have a worker, through a real store: known while it is said, forgotten after."""

import pytest

from inferlane.contracts.naming import Names
from inferlane.contracts.traffic_split import Served
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.served_versions import ServedVersions
from tests.support.fakes.clock import FakeClock
from tests.support.parts import embedded_store

pytestmark = pytest.mark.timeout(120)


async def test_a_version_is_known_while_a_worker_says_so_and_only_in_its_own_stack() -> None:
    clock = FakeClock()
    async with embedded_store() as url, connect(url) as redis:
        served = ServedVersions(redis, redis_url=url, clock=clock, names=Names())
        others = ServedVersions(redis, redis_url=url, clock=clock, names=Names("shop"))
        await served.say("iris", "v1", default_version="v1")
        clock.advance(20)
        await served.say("iris", "v2", default_version="v2")
        await served.read()
        await others.read()
        assert served.get("iris") == Served("v2", {"v1", "v2"})
        assert (served.get("digits"), others.get("iris")) == (None, None)
        clock.advance(20)
        await served.read()
        assert served.get("iris") == Served("v2", {"v2"})


async def test_what_others_write_there_names_no_version() -> None:
    """Guards the count of parts: without it one such member ends every router."""
    clock = FakeClock()
    async with embedded_store() as url, connect(url) as redis:
        served = ServedVersions(redis, redis_url=url, clock=clock, names=Names())
        await redis.zadd(Names().store_key("served"), {"iris": clock.now_s() + 10, b"\xff a b c": clock.now_s() + 11})
        await served.say("iris", "v1", default_version="v1")
        await served.read()
        assert served.get("iris") == Served("v1", {"v1"})

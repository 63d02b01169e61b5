"""Why a worker could not load its version, through a real store."""

import pytest

from inferlane.contracts.naming import Names
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.version_faults import VersionFaults
from tests.support.parts import embedded_store

pytestmark = pytest.mark.timeout(120)


async def test_a_reason_stands_until_a_worker_has_loaded_the_version_and_is_of_its_own_stack() -> None:
    versions = [("iris", "v1"), ("iris", "v2")]
    async with embedded_store() as url, connect(url) as redis:
        faults = VersionFaults(redis, redis_url=url, names=Names())
        others = VersionFaults(redis, redis_url=url, names=Names("shop"))
        await faults.report("iris", "v2", "a flipped byte")
        assert await faults.read(versions) == {("iris", "v2"): "a flipped byte"}
        assert await others.read(versions) == {}
        await faults.clear("iris", "v2")
        assert await faults.read(versions) == {}
        assert await faults.read([]) == {}

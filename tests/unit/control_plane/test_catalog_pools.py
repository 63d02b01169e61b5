"""The pools of the local stack follow the catalogue, and one version that cannot start delays no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from control_plane.local.catalog_pools import CatalogPools, Name
from control_plane.local.probe import Target
from inferlane.contracts.catalog_entry import CatalogEntry, VersionState, encode_entry
from inferlane.errors import UnavailableError
from inferlane.runtime.catalog_table import CatalogTable
from models.live_catalog import LiveCatalog
from tests.support.fakes.entries import make_entry
from tests.support.fakes.records import make_catalog

WAIT_S = 20.0


class Processes:
    """Pools that start at once, or when `slow` is set; the first starts of `away` find no broker."""

    def __init__(self) -> None:
        self.running: set[Name] = {("iris", "v1")}
        self.changed = asyncio.Event()
        self.slow: dict[Name, asyncio.Event] = {}
        self.away: dict[Name, int] = {}

    def names(self) -> frozenset[Name]:
        return frozenset(self.running)

    async def start(self, target: Target) -> None:
        name = (target.model, target.version)
        if self.away.get(name, 0):
            self.away[name] -= 1
            raise UnavailableError("no broker")
        if name in self.slow:
            await self.slow[name].wait()
        self.running.add(name)
        self.changed.set()

    async def stop(self, name: Name) -> None:
        self.running.discard(name)
        self.changed.set()

    async def until(self, *names: Name) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.running != {("iris", "v1"), *names}:
                self.changed.clear()
                await self.changed.wait()


class Topic:
    def __init__(self) -> None:
        self.table = CatalogTable()
        self._offset = 0

    async def write(self, *entries: CatalogEntry) -> None:
        for entry in entries:
            await self.table.apply(self._offset, entry.key.encode(), encode_entry(entry))
            self._offset += 1


@asynccontextmanager
async def following(processes: Processes) -> AsyncIterator[Topic]:
    topic = Topic()
    pools = CatalogPools(processes)
    task = asyncio.create_task(pools.follow(LiveCatalog(make_catalog("v1"), topic.table, serves_retiring=True)))
    try:
        yield topic
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_version_that_appears_gets_a_pool_which_goes_with_it() -> None:
    processes = Processes()
    async with following(processes) as topic:
        await topic.write(make_entry("fraud", "v1"), make_entry("fraud", "v2"))
        await processes.until(("fraud", "v1"), ("fraud", "v2"))
        await topic.write(make_entry("fraud", "v1", state=VersionState.RETIRING, generation=2))
        await topic.write(make_entry("fraud", "v2", state=VersionState.RETIRED, generation=3))
        # The retiring one works off what it has.
        await processes.until(("fraud", "v1"))
        await topic.write(make_entry("fraud", "v1", state=VersionState.RETIRED, generation=4))
        await processes.until()


async def test_a_version_that_takes_long_to_start_delays_no_other_and_may_be_retired_meanwhile() -> None:
    processes = Processes()
    slow = processes.slow["fraud", "v1"] = asyncio.Event()
    async with following(processes) as topic:
        await topic.write(make_entry("fraud", "v1"))
        await topic.write(make_entry("fraud", "v2", generation=2))
        await processes.until(("fraud", "v2"))
        await topic.write(make_entry("fraud", "v1", state=VersionState.RETIRED, generation=3))
        slow.set()
        await processes.until(("fraud", "v2"))
        assert ("fraud", "v1") not in processes.running


async def test_a_broker_that_is_away_is_asked_again() -> None:
    processes = Processes()
    processes.away["fraud", "v1"] = 1
    async with following(processes) as topic:
        await topic.write(make_entry("fraud", "v1"))
        await processes.until(("fraud", "v1"))

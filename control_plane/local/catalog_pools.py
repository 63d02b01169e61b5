"""The pools of the local stack follow the catalogue: one for each version that is served, none for a retired one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, Protocol

import structlog

from control_plane.local.probe import Target
from inferlane.errors import ConfigurationError, InferlaneError, UnavailableError
from inferlane.runtime.catalog_table import CatalogKeeper, CatalogTable
from inferlane.runtime.retry import back_off
from models.catalog import Catalog
from models.live_catalog import LiveCatalog
from models.store_reader import read_store

if TYPE_CHECKING:
    from inferlane.runtime.settings import KafkaSettings, StackSettings

log = structlog.get_logger(__name__)

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 10.0
Name = tuple[str, str]


class Pools(Protocol):
    """Starts and stops the pool of a version."""

    def names(self) -> frozenset[Name]:
        """Return the versions that have a pool."""
        ...

    async def start(self, target: Target) -> None:
        """Return once the pool of the version is ready or has failed, which is no error.

        Raises:
            UnavailableError: the broker does not answer.
        """
        ...

    async def stop(self, name: Name) -> None:
        """Return once the processes of the pool have drained and ended."""
        ...


class CatalogPools:
    """Follows the catalogue topic. One event loop; a version that cannot be started delays no other."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._wanted: dict[Name, Target] = {}
        self._changed = asyncio.Event()
        self._busy: dict[Name, asyncio.Task[None]] = {}

    async def run(self, kafka: "KafkaSettings", stack: "StackSettings") -> NoReturn:
        """Start and stop pools as the catalogue topic says, until cancelled."""
        table = CatalogTable()
        live = LiveCatalog(_store_catalog(stack), table, serves_retiring=True)
        follower = CatalogKeeper(kafka, stack.names, table)
        await _with_retries(follower.start)
        try:
            await self.follow(live)
        finally:
            await follower.close()

    async def follow(self, catalog: LiveCatalog) -> NoReturn:
        """Start and stop pools as the catalogue changes, until cancelled."""
        catalog.on_change(self._note)
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for name in self._wanted.keys() ^ self._pools.names():
                    if name not in self._busy:
                        self._busy[name] = asyncio.create_task(self._settle(name), name=f"catalog:{'/'.join(name)}")
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _note(self, catalog: Catalog) -> None:
        self._wanted = {(entry.model, entry.version): Target.of(entry) for entry in catalog.all_versions()}
        self._changed.set()

    async def _settle(self, name: Name) -> None:
        """Start or stop the pool of a version until it is as the catalogue wants it, which may change meanwhile."""
        try:
            while (name in self._wanted) != (name in self._pools.names()):
                if target := self._wanted.get(name):
                    await _with_retries(lambda target=target: self._pools.start(target))  # type: ignore[misc]
                else:
                    await self._pools.stop(name)
        except InferlaneError as error:
            log.exception("pool_not_changed", model=name[0], version=name[1], error=str(error))
        finally:
            del self._busy[name]
            # A change that arrived in the last moment.
            self._changed.set()


def _store_catalog(stack: "StackSettings") -> Catalog:
    try:
        return read_store(stack.models_dir, default_model=stack.default_model)[0]
    except ConfigurationError as error:
        log.warning("store_not_read", error=str(error))
        return Catalog(models={}, default_model=stack.default_model)


async def _with_retries(work: Callable[[], Awaitable[None]]) -> None:
    waits = back_off(_FIRST_RETRY_S, _LONGEST_RETRY_S)
    while True:
        try:
            await work()
        except UnavailableError as error:
            log.warning("catalog_waits", error=str(error))
            await asyncio.sleep(next(waits))
        else:
            return

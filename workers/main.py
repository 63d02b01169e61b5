"""The worker process: serve one version of the catalog, or many."""

import asyncio
from typing import TYPE_CHECKING

from workers.roster import Roster
from workers.shared_worker import SharedWorker
from workers.worker import Worker

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings


async def serve(settings: "Settings", stop: asyncio.Event, *, model: str, version: str) -> None:
    """Serve one version until `stop` is set and the batches under way are finished.

    Raises:
        UnknownModelError: the catalog has no such model or version.
        ConfigurationError: the model cannot be loaded, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker and the store were available.
    """
    await Worker(settings, model, version).run(stop)


async def serve_shared(settings: "Settings", stop: asyncio.Event, *, roster: Roster) -> None:
    """Serve every version of the roster until `stop` is set and the batches under way are finished.

    A version that cannot be loaded is reported, and takes nobody with it.

    Raises:
        ConfigurationError: the roster cannot be read, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker and the store were available.
    """
    await SharedWorker(settings, roster).run(stop)

"""The worker process: load one version of the catalog and run a worker on it, or run one for many versions."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from inferlane.errors import UnavailableError
from inferlane.runtime.redis.result_store import connect
from inferlane.runtime.redis.versions import VersionFaults
from workers.model_check import load_verified
from workers.roster import Roster
from workers.shared_worker import SharedWorker
from workers.version_source import find_version
from workers.worker import Worker

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from workers.model import OnnxModel


async def serve(settings: "Settings", stop: asyncio.Event, *, model: str, version: str) -> None:
    """Serve one version until `stop` is set and the batches under way are finished.

    Raises:
        UnknownModelError: the catalog has no such model or version.
        ConfigurationError: the model cannot be loaded, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker and the store were available.
    """
    onnx, default_version = await _load(settings, model, version)
    await Worker(settings, model=onnx, default_version=default_version).run(stop)


async def serve_shared(settings: "Settings", stop: asyncio.Event, *, roster: Roster) -> None:
    """Serve every version of the roster until `stop` is set and the batches under way are finished.

    A version that cannot be loaded is reported, and takes nobody with it.

    Raises:
        ConfigurationError: the roster cannot be read, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker and the store were available.
    """
    await SharedWorker(settings, roster).run(stop)


async def _load(settings: "Settings", model: str, version: str) -> "tuple[OnnxModel, str]":
    """Load the version and report to the store whether that succeeded: the API and the dashboard show the reason.

    Returns it with the default version of its model.

    Raises:
        UnknownModelError: there is no such version.
        ConfigurationError: the version cannot be served.
        UnavailableError: only the broker knows where the version is, and does not answer.
    """
    async with connect(settings.store.redis_url) as redis:
        faults = VersionFaults(redis, redis_url=settings.store.redis_url, names=settings.stack.names)
        try:
            found, default_version = await find_version(settings.kafka, settings.stack, model, version)
            onnx = load_verified(
                found, intra_op_num_threads=settings.worker.intra_op_num_threads, rows=settings.worker.max_batch_rows
            )
        except UnavailableError:
            # Nothing is wrong with the version.
            raise
        except Exception as error:
            with suppress(UnavailableError):
                await faults.report(model, version, str(error))
            raise
        with suppress(UnavailableError):
            await faults.clear(model, version)
        return onnx, default_version

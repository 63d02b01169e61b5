"""The worker process: load one version of the catalog, then run a worker on it."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from inferlane.errors import UnavailableError
from inferlane.runtime.redis.result_store import connect
from inferlane.runtime.redis.versions import VersionFaults
from models.catalog import load_catalog
from workers.model_check import load_verified
from workers.worker import Worker

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from models.catalog import ModelVersion
    from workers.model import OnnxModel


async def serve(settings: "Settings", stop: asyncio.Event, *, model: str, version: str) -> None:
    """Serve one version until `stop` is set and the batches under way are finished.

    Raises:
        UnknownModelError: the catalog has no such model or version.
        ConfigurationError: the model cannot be loaded, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker and the store were available.
    """
    entry = load_catalog(settings.models_dir, default_model=settings.default_model).model(model)
    onnx = await _load(settings, entry.version(version))
    await Worker(settings, model=onnx, default_version=entry.default_version).run(stop)


async def _load(settings: "Settings", version: "ModelVersion") -> "OnnxModel":
    """Load the model and report to the store whether that succeeded: the API and the dashboard show the reason.

    Raises:
        ConfigurationError: the version cannot be served.
    """
    async with connect(settings.redis_url) as redis:
        faults = VersionFaults(redis, redis_url=settings.redis_url, names=settings.names)
        try:
            onnx = load_verified(
                version, intra_op_num_threads=settings.intra_op_num_threads, rows=settings.max_batch_rows
            )
        except Exception as error:
            with suppress(UnavailableError):
                await faults.report(version.model, version.version, str(error))
            raise
        with suppress(UnavailableError):
            await faults.clear(version.model, version.version)
        return onnx

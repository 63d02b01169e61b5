"""Load a version without holding up the event loop, which serves the ops port and other versions meanwhile."""

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from inferlane.errors import UnavailableError
from inferlane.runtime.daemon_thread import in_daemon_thread
from workers.model_check import load_verified
from workers.version_source import find_version

if TYPE_CHECKING:
    from inferlane.runtime.redis.version_faults import VersionFaults
    from inferlane.runtime.service_settings import WorkerSettings
    from inferlane.runtime.settings import KafkaSettings, StackSettings
    from models.catalog import Catalog
    from workers.model import OnnxModel
    from workers.roster import VersionName


async def load_version(
    kafka: "KafkaSettings",
    stack: "StackSettings",
    worker: "WorkerSettings",
    name: "VersionName",
    *,
    faults: "VersionFaults",
    store: "Catalog | None" = None,
) -> "tuple[OnnxModel, str]":
    """Return the version, verified, and the default version of its model. Its fault in the store is cleared.

    `store` is what the model store holds, if that was read already.

    Raises:
        UnknownModelError: there is no such version.
        ConfigurationError: the version cannot be served.
        UnavailableError: only the broker knows where the version is, and does not answer.
    """
    found, default_version = await find_version(kafka, stack, *name, store=store)
    load = partial(
        load_verified,
        found,
        intra_op_num_threads=worker.intra_op_num_threads,
        rows=worker.max_batch_rows,
    )
    onnx = await in_daemon_thread(load, name=f"load:{'/'.join(name)}")
    with suppress(UnavailableError):
        await faults.clear(*name)
    return onnx, default_version

"""Find the version of a worker: in its own model store, else at the location that the catalogue names."""

from functools import partial
from typing import TYPE_CHECKING

from inferlane.contracts.catalog_entry import VersionState
from inferlane.errors import ConfigurationError, UnknownModelError, UnusableVersionError
from inferlane.runtime.catalog_table import read_catalog_topic
from inferlane.runtime.daemon_thread import in_daemon_thread
from models.catalog import Catalog
from models.live_catalog import overlaid
from models.pulling import pull
from models.store_reader import load_catalog

if TYPE_CHECKING:
    from inferlane.runtime.settings import KafkaSettings, StackSettings
    from models.catalog import ModelVersion

PULLED = "pulled"


async def find_version(
    kafka: "KafkaSettings", stack: "StackSettings", model: str, version: str, *, store: Catalog | None = None
) -> "tuple[ModelVersion, str]":
    """Return the version, with its files on this machine, and the default version of its model.

    `store` is what the store of this process holds, if that was read already. Files are read, pulled and digested in
    a thread: that may take minutes.

    Raises:
        UnknownModelError: neither the store nor the catalogue has it, or the store has it and it cannot be served.
        ConfigurationError: its files cannot be read, or differ from those that the catalogue names.
        UnavailableError: the store does not have it, and the broker does not answer.
    """
    try:
        if store is None:
            read = partial(load_catalog, stack.models_dir, default_model=stack.default_model)
            store = await in_daemon_thread(read, name="models:read")
        known = store.model(model)
        return known.version(version), known.default_version
    except UnusableVersionError:
        raise
    except (UnknownModelError, ConfigurationError) as error:
        missing = error
    table = await read_catalog_topic(kafka, stack.names)
    entry = table.get(model, version)
    if entry is None or entry.state is VersionState.RETIRED:
        raise missing
    nothing = Catalog(models={}, default_model=stack.default_model)
    served = overlaid(nothing, table.entries, serves_retiring=True).model(model)
    pulled = await in_daemon_thread(partial(pull, entry, stack.state_dir / PULLED), name=f"pull:{model}/{version}")
    return pulled, served.default_version

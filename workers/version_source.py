"""Find the version of a worker: in its own model store, else at the location that the catalogue names."""

from typing import TYPE_CHECKING

from inferlane.contracts.catalog_entry import VersionState
from inferlane.errors import ConfigurationError, UnknownModelError, UnusableVersionError
from inferlane.runtime.catalog_table import read_catalog_topic
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

    `store` is what the store of this process holds, if that was read already.

    Raises:
        UnknownModelError: neither the store nor the catalogue has it, or the store has it and it cannot be served.
        ConfigurationError: its files cannot be read, or differ from those that the catalogue names.
        UnavailableError: the store does not have it, and the broker does not answer.
    """
    try:
        known = (store or load_catalog(stack.models_dir, default_model=stack.default_model)).model(model)
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
    return pull(entry, stack.state_dir / PULLED), served.default_version

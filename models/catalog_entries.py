"""Entries of the catalogue topic from versions of a store, and versions from entries."""

import time
from pathlib import Path

import msgspec

from inferlane.contracts.catalog_entry import CatalogEntry, VersionState
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import UNDECODABLE, ConfigurationError
from models.catalog import ModelVersion
from models.described_tensors import described_signature, read_version_file
from models.files import VersionFile, read_model_file
from models.store_reader import check_in_store, described_version


def entry_of_store(models_dir: Path, model: str, version: str, *, generation: int, default_since: int) -> CatalogEntry:
    """Return the entry that puts a version of the store at `models_dir` in service.

    Raises:
        UnknownModelError: the store does not have it.
        ConfigurationError: it is not as it must be.
    """
    check_in_store(models_dir, model, version)
    home = models_dir / model
    about = read_model_file(home)
    entry, graph = read_version_file(home / version)
    return CatalogEntry(
        model=model,
        version=version,
        state=VersionState.SERVING,
        digest=entry.digest,
        location=str((home / version).resolve()),
        generation=generation,
        default_since=default_since,
        description=about.description,
        classes=about.classes,
        manifest=msgspec.Raw(_manifest(entry, graph)),
        changed_s=time.time(),
    )


def version_of_entry(entry: CatalogEntry, *, folder: Path | None = None) -> ModelVersion:
    """Return the version that an entry describes, with its files in `folder` if they are here.

    Raises:
        ConfigurationError: the entry describes none that can be served.
    """
    home = folder or Path(entry.location)
    try:
        described = msgspec.json.decode(entry.manifest, type=VersionFile)
    except UNDECODABLE as error:
        raise ConfigurationError(f"what the catalogue says of {entry.key} is malformed: {error}") from error
    if described.digest != entry.digest:
        raise ConfigurationError(
            f"the catalogue says two digests of {entry.key}, {entry.digest} and {described.digest}; "
            "retire it and add it again"
        )
    graph = described_signature(described, Path(entry.model) / entry.version)
    return described_version((entry.model, entry.version), home / "model.onnx", described, graph, classes=entry.classes)


def _manifest(entry: VersionFile, graph: Signature) -> bytes:
    """What version.toml says as JSON, with what only the graph says: whoever reads it needs no file of the version."""
    allows = {spec.name: spec.allow_nan for spec in graph.inputs}
    inputs = tuple(
        msgspec.structs.replace(tensor, allow_nan=allows.get(tensor.name, tensor.allow_nan or False))
        for tensor in entry.inputs
    )
    return msgspec.json.encode(msgspec.structs.replace(entry, inputs=inputs))

"""Entries of the catalogue topic."""

from typing import Any

import msgspec

from inferlane.contracts.catalog_entry import CatalogEntry, VersionState

# `version.toml` of a version with one input of four numbers.
MANIFEST: dict[str, Any] = {
    "digest": f"sha256:{'a' * 64}",
    "size_bytes": 100,
    "quantization": "none",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4], "allow_nan": False}],
    "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
}


def make_entry(model: str, version: str, *, state: VersionState = VersionState.SERVING, **other: Any) -> CatalogEntry:
    manifest = MANIFEST | other.pop("manifest", {})
    values: dict[str, Any] = {"digest": manifest["digest"], "location": "/nowhere", "generation": 1} | other
    raw = msgspec.Raw(msgspec.json.encode(manifest))
    return CatalogEntry(model=model, version=version, state=state, manifest=raw, **values)

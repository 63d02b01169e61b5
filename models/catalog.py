"""What can be served: models, their versions and signatures, read from a store on disk.

Layout of the store: `<model>/model.toml` (`default_version`, `description`, `classes`) and, for each version,
`<model>/<version>/model.onnx` with `<model>/<version>/version.toml`. `version.toml` holds `digest` (`sha256:<hex>`
of model.onnx), `size_bytes`, `quantization` (`none` or the method), `[[inputs]]` and `[[outputs]]`
(`name`, `datatype`, `shape` with -1 for the row axis), `[metrics]` and, for a quantized version, `[quantized]`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inferlane.errors import ConfigurationError, UnknownModelError
from inferlane.quoting import quoted
from inferlane.signature import Signature, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version that a pool of workers can serve."""

    model: str
    version: str
    path: Path
    signature: Signature
    classes: tuple[str, ...]
    digest: str
    size_bytes: int
    quantization: str
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    quantized: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model and its versions, by name."""

    name: str
    description: str
    default_version: str
    versions: Mapping[str, ModelVersion]

    def version(self, name: str) -> ModelVersion:
        """Return the version called `name`.

        Raises:
            UnknownModelError: there is none.
        """
        try:
            return self.versions[name]
        except KeyError:
            known = ", ".join(self.versions)
            raise UnknownModelError(f"model {self.name!r} has no version {quoted(name)}; it has: {known}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Every model of the store, and which one answers a request that names none."""

    models: Mapping[str, Model]
    default_model: str

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, or the default model.

        Raises:
            UnknownModelError: there is none.
        """
        wanted = name or self.default_model
        try:
            return self.models[wanted]
        except KeyError:
            raise UnknownModelError(f"no model {quoted(wanted)}; there are: {', '.join(self.models)}") from None

    def all_versions(self) -> tuple[ModelVersion, ...]:
        """Every version of every model, in the order of their names."""
        return tuple(version for model in self.models.values() for version in model.versions.values())


def load_catalog(models_dir: Path, *, default_model: str) -> Catalog:
    """Read the store at `models_dir`.

    Raises:
        ConfigurationError: the store is missing, empty, or a file in it does not hold what it must.
    """
    folders = sorted(path.parent for path in models_dir.glob("*/model.toml"))
    if not folders:
        raise ConfigurationError(
            f"no models in {str(models_dir)!r} (INFERLANE_MODELS_DIR). "
            "Build the samples with `inferlane models build-samples`."
        )
    models = {folder.name: load_model(folder) for folder in folders}
    if default_model not in models:
        raise ConfigurationError(
            f"the default model {default_model!r} is not in {str(models_dir)!r}, which has: {', '.join(models)}. "
            "Set INFERLANE_DEFAULT_MODEL."
        )
    return Catalog(models=models, default_model=default_model)


def load_model(folder: Path) -> Model:
    """Read one model of a store.

    Raises:
        ConfigurationError: a file is missing, or does not hold what it must.
    """
    about = _read_toml(folder / "model.toml")
    versions = {
        path.parent.name: _load_version(folder.name, path.parent, about)
        for path in sorted(folder.glob("*/version.toml"))
    }
    default_version = about.get("default_version")
    if default_version not in versions:
        raise ConfigurationError(
            f"{folder / 'model.toml'}: default_version = {default_version!r}, but the versions are: "
            f"{', '.join(versions) or 'none'}"
        )
    return Model(
        name=folder.name,
        description=about.get("description", ""),
        default_version=default_version,
        versions=versions,
    )


def _load_version(model: str, folder: Path, about: Mapping[str, Any]) -> ModelVersion:
    entry = _read_toml(folder / "version.toml")
    onnx = folder / "model.onnx"
    if not onnx.is_file():
        raise ConfigurationError(f"{folder}: there is a version.toml but no model.onnx beside it")
    try:
        return ModelVersion(
            model=model,
            version=folder.name,
            path=onnx,
            signature=Signature(inputs=_specs(entry["inputs"]), outputs=_specs(entry["outputs"])),
            classes=tuple(about.get("classes", ())),
            digest=entry["digest"],
            size_bytes=entry["size_bytes"],
            quantization=entry["quantization"],
            metrics=entry.get("metrics", {}),
            quantized=entry.get("quantized", {}),
        )
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{folder / 'version.toml'}: missing or malformed {error}") from error


def _specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=entry["name"], datatype=entry["datatype"], shape=tuple(entry["shape"])) for entry in entries
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error

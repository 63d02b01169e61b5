"""Read the store: the models and versions that are in a folder on disk.

Layout of the store: `<model>/model.toml` (`default_version`, `description`, `classes`) and, for each version,
`<model>/<version>/model.onnx` with `<model>/<version>/version.toml`. `version.toml` holds `digest` (`sha256:<hex>`
of model.onnx), `size_bytes`, `quantization` (`none` or the method), `rows_alone`, `[[inputs]]` and `[[outputs]]`
(`name`, `datatype`, `shape` with -1 for the row axis, and `classes` of an output that has some), `[[before]]` and
`[[after]]` for steps around the graph, `[metrics]` and, for a quantized version, `[quantized]`.

A model or version that is not as it must be is left out, with its reason, and the others are served.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from inferlane.contracts.naming import check_model_name, check_version_name, pool_key
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import (
    ConfigurationError,
    InvalidNameError,
    UnknownModelError,
    quoted,
)
from models.catalog import Catalog, Fault, Model, ModelVersion
from models.described_classes import declared_classes, label_classes
from models.described_tensors import described_steps, read_version_file
from models.files import ModelFile, VersionFile, model_folders, read_model_file, shown_values, version_folders


def load_catalog(models_dir: Path, *, default_model: str) -> Catalog:
    """Read the store at `models_dir`. What is not as it must be becomes a fault of the catalog.

    Raises:
        ConfigurationError: the store is missing or empty, no version of it can be served, or it has no folder for the
            default model.
    """
    catalog, lack = read_store(models_dir, default_model=default_model)
    if lack:
        raise ConfigurationError(lack)
    return catalog


def read_store(models_dir: Path, *, default_model: str) -> tuple[Catalog, str]:
    """Read the store at `models_dir`, and what it lacks to be served without a catalogue topic; empty if nothing.

    Raises:
        ConfigurationError: the folder cannot be read.
    """
    folders = model_folders(models_dir)
    models: dict[str, Model] = {}
    faults: list[Fault] = []
    for folder in folders:
        model, found = _read_model(folder)
        faults += found
        if model is not None:
            models[model.name] = model
    models, found = keep_apart(models)
    faults += found
    lack = ""
    if not folders:
        lack = (
            f"no models in {str(models_dir)!r} (INFERLANE_MODELS_DIR). "
            "Add one with `inferlane models add`, or build the samples with `inferlane models build-samples`."
        )
    elif not models:
        lack = (
            f"no model in {str(models_dir)!r} can be served. {'; '.join(map(str, faults))}. Mend these, "
            "or build the samples with `inferlane models build-samples`."
        )
    elif default_model not in {folder.name for folder in folders}:
        lack = (
            f"the default model {default_model!r} is not in {str(models_dir)!r}, which has: {', '.join(models)}. "
            "Set INFERLANE_DEFAULT_MODEL."
        )
    return Catalog(models=models, default_model=default_model, faults=tuple(faults)), lack


def load_model(folder: Path) -> Model:
    """Read one model of a store.

    Raises:
        ConfigurationError: no version of it can be served.
    """
    model, faults = _read_model(folder)
    if model is None:
        raise ConfigurationError("; ".join(map(str, faults)))
    return model


def check_in_store(models_dir: Path, model: str, version: str) -> None:
    """Return if the store has a version of that name, whether or not it can be served.

    Raises:
        UnknownModelError: it does not; the message names what there is.
        ConfigurationError: the store cannot be read.
    """
    models = {folder.name: folder for folder in model_folders(models_dir)}
    if model not in models:
        raise UnknownModelError(
            f"{str(models_dir)!r} has no model {quoted(model)}; there are: {', '.join(models) or 'none'}"
        )
    try:
        versions = [folder.name for folder in version_folders(models[model])]
    except OSError as error:
        raise ConfigurationError(f"cannot read {models[model]}: {error}") from error
    if version not in versions:
        raise UnknownModelError(
            f"model {model!r} has no version {quoted(version)}; it has: {', '.join(versions) or 'none'}"
        )


def _read_model(folder: Path) -> tuple[Model | None, list[Fault]]:
    """One model with the faults of its versions; no model if nothing of it can be served."""
    try:
        check_model_name(folder.name)
        about = read_model_file(folder)
    except (ConfigurationError, InvalidNameError) as error:
        return None, [Fault(model=folder.name, version=None, reason=str(error))]
    versions: dict[str, ModelVersion] = {}
    faults: dict[str, str] = {}
    try:
        folders = version_folders(folder)
    except OSError as error:
        return None, [Fault(model=folder.name, version=None, reason=f"cannot read {folder}: {error}")]
    for path in folders:
        try:
            check_version_name(path.name)
            versions[path.name] = _read_version(folder.name, path, about)
        except (ConfigurationError, InvalidNameError) as error:
            faults[path.name] = str(error)
    if about.default_version not in {*versions, *faults}:
        faults[about.default_version] = (
            f"{folder / 'model.toml'}: default_version = {about.default_version!r}, but the versions are: "
            f"{', '.join(versions) or 'none'}"
        )
    found = [Fault(model=folder.name, version=version, reason=reason) for version, reason in faults.items()]
    if not versions:
        reason = f"default_version = {about.default_version!r}, but the versions are: none that can be served"
        return None, [*found, Fault(model=folder.name, version=None, reason=reason)]
    return Model(
        name=folder.name,
        description=about.description,
        default_version=about.default_version,
        versions=versions,
        faults=faults,
    ), found


def keep_apart(models: Mapping[str, Model]) -> tuple[dict[str, Model], list[Fault]]:
    """The models without the versions whose topics, groups, pools or files would be those of another version."""
    pairs = [(model.name, version) for model in models.values() for version in model.versions]
    owners: dict[str, tuple[str, str]] = {}
    faults = []
    # Who is called as the key says is served; of the others the first by name, on every machine alike.
    for pair in sorted(pairs, key=lambda pair: (pool_key(*pair) != "-".join(pair), pair)):
        owner = owners.setdefault(pool_key(*pair), pair)
        if owner != pair:
            reason = (
                f"its name cannot be told from that of {owner[0]} {owner[1]} in metrics, on Kubernetes or on every "
                "file system: case, dots, dashes and underscores do not count. Rename one of them"
            )
            faults.append(Fault(model=pair[0], version=pair[1], reason=reason))
    return {name: kept for name, model in models.items() if (kept := _without(model, faults)).versions}, faults


def _without(model: Model, faults: list[Fault]) -> Model:
    bad = {fault.version: fault.reason for fault in faults if fault.model == model.name and fault.version}
    if not bad:
        return model
    versions = {name: version for name, version in model.versions.items() if name not in bad}
    return replace(model, versions=versions, faults={**model.faults, **bad})


def _read_version(model: str, folder: Path, about: ModelFile) -> ModelVersion:
    entry, graph = read_version_file(folder)
    onnx = folder / "model.onnx"
    if not onnx.is_file():
        raise ConfigurationError(f"{folder}: there is a version.toml but no model.onnx beside it")
    return described_version((model, folder.name), onnx, entry, graph, classes=about.classes)


def described_version(
    name: tuple[str, str], onnx: Path, entry: VersionFile, graph: Signature, *, classes: tuple[str, ...]
) -> ModelVersion:
    """The version of that model and name whose file is `onnx`; `classes` are those of the model.

    Raises:
        ConfigurationError: its steps do not fit the graph, or one another.
    """
    try:
        steps = described_steps(entry, graph)
        signature = graph if steps is None else steps.public()
    except ConfigurationError as error:
        raise ConfigurationError(f"{onnx.with_name('version.toml')}: {error}") from error
    declared = declared_classes(entry, steps)
    return ModelVersion(
        model=name[0],
        version=name[1],
        path=onnx,
        signature=signature,
        classes=label_classes(signature.outputs, declared, classes),
        declared_classes=declared,
        digest=entry.digest,
        size_bytes=entry.size_bytes,
        quantization=entry.quantization,
        rows_alone=entry.rows_alone,
        execution=entry.runtime,
        steps=steps,
        files=(*entry.files, *(steps.files if steps else ())),
        metrics=shown_values(entry.metrics),
        quantized=shown_values(entry.quantized),
    )

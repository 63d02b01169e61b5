"""`inferlane models list` and `verify`: what the store holds, and whether it can be served."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.cli.console import AsJson, load_settings, out, styled, write_json
from inferlane.contracts.naming import check_model_name, check_version_name, is_model_name
from inferlane.errors import ConfigurationError, InvalidNameError, quoted

# onnxruntime is loaded by the command that needs it (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from models.catalog import Catalog, ModelVersion

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the model store. Env: INFERLANE_MODELS_DIR.",
        show_default=".inferlane/models",
    ),
]


def version_named(name: str) -> tuple[str, str]:
    """Return model and version of `MODEL/VERSION`.

    Raises:
        ConfigurationError: it is none.
    """
    model, _, version = name.partition("/")
    if is_model_name(model) and not version:
        raise ConfigurationError(
            f"{quoted(name)} names a model and no version; write {model}/VERSION. `inferlane models show {model}` "
            "lists its versions"
        )
    try:
        check_model_name(model)
        check_version_name(version)
    except InvalidNameError as error:
        raise ConfigurationError(
            f"{quoted(name)} names no version; write MODEL/VERSION, as fraud/v3: {error}"
        ) from error
    return model, version


def list_models(models_dir: ModelsDir = None, as_json: AsJson = False) -> None:
    """List every version of every model, with the measurements of its build."""
    catalog = catalog_of(models_dir)
    if as_json:
        versions = [_listed(version, catalog) for version in catalog.all_versions()]
        write_json({"versions": versions, "faults": catalog.faults})
        return
    table = Table("model", "version", "quantization")
    for heading in ("size", "accuracy", "speed-up at\n1 / 64 rows"):
        table.add_column(heading, justify="right")
    for version in catalog.all_versions():
        default = _is_default(version, catalog)
        table.add_row(
            version.model,
            f"{version.version}{' (default)' if default else ''}",
            version.quantization,
            f"{version.size_bytes / 1024:,.0f} KiB",
            _measured(version.metrics.get("held_out_accuracy"), "{:.1%}"),
            " / ".join(_measured(version.quantized.get(f"batch{rows}_speedup"), "{:.1f}x") for rows in (1, 64)),
        )
    out.print(table)
    for fault in catalog.faults:
        out.print(styled(("not served", "bold red"), f" {fault}"), soft_wrap=True)


def _is_default(version: "ModelVersion", catalog: "Catalog") -> bool:
    return catalog.model(version.model).default_version == version.version


def _listed(version: "ModelVersion", catalog: "Catalog") -> dict[str, object]:
    """Return a version for JSON; the measurements by the names that its description has."""
    return {
        "model": version.model,
        "version": version.version,
        "is_default": _is_default(version, catalog),
        "quantization": version.quantization,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "metrics": version.metrics,
        "quantized": version.quantized,
    }


def verify_models(models_dir: ModelsDir = None) -> None:
    """Load and run each version as a worker does before it serves. Exit 1 if one fails."""
    catalog = catalog_of(models_dir)
    for unread in catalog.faults:
        name = f"{unread.model}{f' {unread.version}' if unread.version else ''}"
        out.print(styled(f"{name}: ", ("failed", "bold red"), f" {unread.reason}"), soft_wrap=True)
    faults = len(catalog.faults)
    for version in catalog.all_versions():
        fault = _fault_of(version)
        faults += fault is not None
        verdict = (("ok", "green"),) if fault is None else (("failed", "bold red"), f" {fault}")
        out.print(styled(f"{version.model} {version.version}: ", *verdict), soft_wrap=True)
    if faults:
        raise typer.Exit(1)


def _fault_of(version: "ModelVersion") -> str | None:
    from models.verify import verify_version

    try:
        verify_version(version, rows=load_settings().worker.max_batch_rows)
    except ConfigurationError as error:
        return str(error)
    return None


def _measured(value: float | str | None, form: str) -> str:
    # A store that somebody else wrote may have measured nothing, or in words.
    return form.format(value) if isinstance(value, int | float) else "-"


def settings_of(models_dir: Path | None) -> "Settings":
    """Return the settings, with another folder of models if one is named."""
    return load_settings() if models_dir is None else load_settings(models_dir=models_dir)


def catalog_of(models_dir: Path | None) -> "Catalog":
    """Return what the store holds."""
    from models.store_reader import load_catalog

    settings = settings_of(models_dir)
    return load_catalog(settings.stack.models_dir, default_model=settings.stack.default_model)

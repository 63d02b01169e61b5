"""`inferlane models`: add, build, list and verify what can be served."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from control_plane.cli.console import err, out, styled
from control_plane.cli.model_addition import add_model
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import Settings, load_settings
from models.catalog import load_catalog

# scikit-learn and onnxruntime take seconds to load: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.catalog import Catalog, ModelVersion

app = typer.Typer(no_args_is_help=True, help="Add, build, list and verify models.")
app.command("add")(add_model)

_EXTRA = frozenset({"onnx", "skl2onnx", "sklearn", "threadpoolctl"})

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the model store. Env: INFERLANE_MODELS_DIR.",
        show_default=str(Settings.model_fields["models_dir"].default),
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Build again what is there and verifies. Default: off.")]


@app.command("build-samples")
def build_samples(models_dir: ModelsDir = None, force: Force = False) -> None:
    """Train, export, quantize and measure the sample models; what is there and verifies is left alone."""
    from models.build import build_samples as build
    from models.build import count_versions

    folder = _settings(models_dir).models_dir
    total, built = count_versions(), 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _missing_extra_explained(),
        Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress,
    ):
        task = progress.add_task("building", total=total)
        for step in build(folder, force=force):
            built += not step.skipped
            progress.update(task, advance=1, description=f"{step.model} {step.version}")
    out.print(f"{built} built, {total - built} left as they were, in {folder}", soft_wrap=True)


@app.command("list")
def list_models(models_dir: ModelsDir = None) -> None:
    """List every version of every model, with what was measured when it was built."""
    table = Table("model", "version", "quantization")
    for heading in ("size", "accuracy", "speed-up at\n1 / 64 rows"):
        table.add_column(heading, justify="right")
    catalog = _catalog(models_dir)
    for version in catalog.all_versions():
        default = catalog.model(version.model).default_version == version.version
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


@app.command("verify")
def verify_models(models_dir: ModelsDir = None) -> None:
    """Do with each version what a worker does before it serves. Exit 1 if one could not serve."""
    catalog = _catalog(models_dir)
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


@contextmanager
def _missing_extra_explained() -> "Iterator[None]":
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            f"building models needs {error.name!r}, which is not installed. "
            "Install the extra: pip install 'inferlane[models]'"
        ) from error


def _fault_of(version: "ModelVersion") -> str | None:
    from models.verify import verify_version

    try:
        verify_version(version, rows=load_settings().max_batch_rows)
    except ConfigurationError as error:
        return str(error)
    return None


def _measured(value: float | str | None, form: str) -> str:
    # A store that somebody else wrote may have measured nothing, or in words.
    return form.format(value) if isinstance(value, int | float) else "-"


def _settings(models_dir: Path | None) -> Settings:
    return load_settings() if models_dir is None else load_settings(models_dir=models_dir)


def _catalog(models_dir: Path | None) -> "Catalog":
    settings = _settings(models_dir)
    return load_catalog(settings.models_dir, default_model=settings.default_model)

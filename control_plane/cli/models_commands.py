"""`inferlane models`: add and build what can be served."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from control_plane.cli import catalog_commands
from control_plane.cli.console import err, missing_extra_explained, out, styled
from control_plane.cli.model_listing import ModelsDir, list_models, settings_of, verify_models
from control_plane.cli.quantize_command import quantize_model
from control_plane.cli.serving import check_access, show_next_step
from inferlane.errors import clipped

# numpy, onnxruntime and the model tools are loaded by the command that needs them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from models.adding.addition import Added, Report
    from models.adding.reference_comparison import ReferenceComparison

_ADDING_NEEDS = frozenset({"onnx", "google"})
_BUILDING_NEEDS = frozenset({"onnx", "skl2onnx", "sklearn", "threadpoolctl"})
_DEFAULT_TOLERANCE, _DEFAULT_TIMEOUT_S = 1e-4, 120.0

app = typer.Typer(no_args_is_help=True, help="Add, build, list and verify models.")
app.command("list")(list_models)
app.command("verify")(verify_models)

Force = Annotated[bool, typer.Option("--force", help="Build again what is there and verifies. Default: off.")]


@app.command("add")
def add_model(  # noqa: PLR0913, PLR0917 - the flags of a command
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An ONNX file, a folder with one, a model of scikit-learn, XGBoost, LightGBM or PyTorch, or a URL of "
            "one: s3, gs, az, http, https, models:/NAME@ALIAS.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="The model that it is a version of; new or known.")],
    version: Annotated[
        str | None, typer.Option("--version", help="The name of the version.", show_default="the next of v1, v2, …")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Rows (.csv, .parquet, .npz) to run, with the expected answers if it has them."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            help="Largest difference from an expected number, relative above 1; share of rows with another label.",
        ),
    ] = _DEFAULT_TOLERANCE,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, max=1e6, help="Seconds that loading and running the model may take.")
    ] = _DEFAULT_TIMEOUT_S,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Open a pickle, which may run anything, in a child. Default: off.")
    ] = False,
    rows_alone: Annotated[
        bool,
        typer.Option("--rows-alone", help="Run rows one by one, for answers that depend on other rows. Default: off."),
    ] = False,
    providers: Annotated[
        str, typer.Option(help="Execution providers of onnxruntime, the preferred first: cuda,cpu or tensorrt.")
    ] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Threads of one run.", show_default="INFERLANE_INTRA_OP_NUM_THREADS"),
    ] = None,
    steps: Annotated[
        str,
        typer.Option(help="Steps around the model: those that an export's files ask for (auto), none, or a TOML file."),
    ] = "auto",
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens that a text is cut to.", show_default="what the export says")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="A row of an export is two texts, text and text_pair. Default: off.")
    ] = False,
    digest: Annotated[
        str | None, typer.Option(help="sha256:… that the source's file must have.", show_default="not compared")
    ] = None,
    max_mib: Annotated[int, typer.Option(min=1, help="MiB that may be downloaded from a URL.")] = 4096,
    row_axis: Annotated[
        bool, typer.Option("--row-axis/--no-row-axis", help="Whether the graph's first axis is that of rows.")
    ] = True,
    pad: Annotated[
        list[str] | None,
        typer.Option(help="INPUT=VALUE that shorter rows of a free axis are filled up with; repeat."),
    ] = None,
    mask: Annotated[
        list[str] | None, typer.Option(help="MASK=INPUT: an input that says which values are no fill; repeat.")
    ] = None,
    columns: Annotated[
        Path | None, typer.Option(help="A TOML file with [[columns]]: name, default and categories of each.")
    ] = None,
    description: Annotated[str, typer.Option(help="What a new model is for. Default: none.")] = "",
    models_dir: ModelsDir = None,
) -> None:
    """Add a model of your own to the store: inspected, checked, measured, and there whole or not at all."""
    settings = settings_of(models_dir)
    with missing_extra_explained("adding", _ADDING_NEEDS):
        from control_plane.local.probe import Target
        from models.adding.addition import Addition, add
        from models.adding.graph_notes import parsed_notes
        from models.execution import parsed_execution
        from models.store_reader import load_model
    addition = Addition(
        source=source,
        model=name,
        version=version,
        models_dir=settings.stack.models_dir,
        check=check,
        tolerance=tolerance,
        timeout_s=timeout_s,
        trust_pickle=trust_pickle,
        rows_alone=rows_alone,
        digest=digest,
        limit_bytes=max_mib * 1024 * 1024,
        notes=parsed_notes(has_row_axis=row_axis, pads=pad or (), masks=mask or (), columns=columns),
        execution=parsed_execution("--providers", providers=providers, threads=threads),
        steps=None if steps in {"auto", "none"} else Path(steps),
        finds_steps=steps == "auto",
        max_length=max_length,
        pairs=pairs,
        description=description,
    )
    check_access()
    with err.status("inspecting") as status:
        added = add(addition, say=status.update)
    _show(added)
    model, version = added.published.model, added.published.version
    # As clients see it, with the steps before and after the graph.
    signature = load_model(settings.stack.models_dir / model).version(version).signature
    target = Target(model=model, version=version, signature=signature)
    show_next_step(target, settings, is_first=added.published.first, within_s=timeout_s)


def _show(added: "Added") -> None:
    report, checked = added.report, added.report.checked
    out.print(styled((f"{added.published.model} {added.published.version}", "bold"), f" in {added.published.folder}"))
    table = Table("", "name", "datatype", "shape", "classes", box=None, padding=(0, 1))
    for what, specs in (("input", checked.signature.inputs), ("output", checked.signature.outputs)):
        for spec in specs:
            classes = added.classes.get(spec.name, ())
            shape = f"[{', '.join(['rows', *map(str, spec.row_shape)])}]"
            table.add_row(what, spec.name, spec.datatype, shape, clipped(", ".join(classes), limit_chars=60))
    out.print(table)
    opsets = ", ".join(f"{name} {number}" for name, number in report.opsets.items())
    lines = [
        f"{report.nodes} nodes, {opsets}, IR version {report.ir_version}",
        *([] if report.converted is None else _conversion_lines(report)),
        *report.changes,
        *checked.declared.seen,
        "answers rows of zeros, and a row alone as in a batch",
        f"NaN is {'answered' if checked.accepts_nan else 'not answered'} by numbers",
        f"{_latencies(checked.latency_us)} on {', '.join(checked.providers)}",
        f"{report.size_bytes / 1024:,.0f} KiB, {report.digest[:19]}…",
    ]
    if checked.comparison is not None:
        lines.append(comparison_line(checked.comparison))
    for line in lines:
        out.print(styled(("✓", "green"), f" {line}"), soft_wrap=True)


def _conversion_lines(report: "Report") -> list[str]:
    converted, compared = report.converted, report.checked.library_comparison
    if converted is None or compared is None:
        return []
    return [
        f"converted from {converted.model_class} of {converted.library}",
        f"{comparison_line(compared)} (the library's own prediction, rows {converted.rows_from})",
        *converted.warnings,
    ]


def _latencies(latency_us: "dict[str, float] | object") -> str:
    values = msgspec.to_builtins(latency_us)
    return ", ".join(f"{rows} row{'s' * (rows != '1')} {value / 1000:.3g} ms" for rows, value in values.items())


def comparison_line(comparison: "ReferenceComparison") -> str:
    """What became of rows, in words."""
    if not comparison.outputs:
        return f"{comparison.rows} rows of the file ran; it has no expected answers to compare with"
    return (
        f"{comparison.rows} rows compared in {', '.join(comparison.outputs)}: largest difference "
        f"{comparison.largest_difference:.2g}, {comparison.labels_differing} other labels"
    )


@app.command("build-samples")
def build_samples(models_dir: ModelsDir = None, force: Force = False) -> None:
    """Train, export, quantize and measure the sample models; existing ones that verify are kept."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from models.build import build_samples as build
    from models.build import count_versions

    folder = settings_of(models_dir).stack.models_dir
    total, built = count_versions(), 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        missing_extra_explained("building", _BUILDING_NEEDS),
        Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress,
    ):
        task = progress.add_task("building", total=total)
        for step in build(folder, force=force):
            built += not step.skipped
            progress.update(task, advance=1, description=f"{step.model} {step.version}")
    out.print(f"{built} built, {total - built} left as they were, in {folder}", soft_wrap=True)


app.command("quantize")(quantize_model)
catalog_commands.add_to(app)

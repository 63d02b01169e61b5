"""`inferlane models quantize`: int8 where it pays, and plain figures where it does not."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.cli.console import err, load_settings, missing_extra_explained, out, styled
from control_plane.cli.model_listing import version_named
from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from models.quantizing.gate import MeasuredForm
    from models.quantizing.quantization import QuantizationReport, Quantized

_NEEDS = frozenset({"onnx", "google"})


class QuantizeMethod(StrEnum):
    """What is tried."""

    AUTO = "auto"
    DYNAMIC = "dynamic"
    STATIC = "static"


def quantize_model(  # noqa: PLR0913, PLR0917 - the flags of a command
    version: Annotated[str, typer.Argument(metavar="MODEL/VERSION", help="A float32 version of the store.")],
    data: Annotated[
        Path, typer.Option("--data", help="Rows (.csv, .parquet, .npz): half calibrate, half judge. At least 40.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", help="Column or array with the right answers.", show_default="one called as an output, if any"
        ),
    ] = None,
    method: Annotated[
        QuantizeMethod, typer.Option("--method", help="What is tried; auto: everything that fits the graph.")
    ] = QuantizeMethod.AUTO,
    min_speedup: Annotated[
        float, typer.Option(min=0, help="Times that int8 must be faster, in the geometric mean of 1, 8, 64, 256 rows.")
    ] = 1.2,
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0, max=1, help="Largest loss of accuracy; without labels, of agreement with float32.")
    ] = 0.01,
    target: Annotated[
        str | None, typer.Option("--as", help="Name of the int8 version.", show_default="VERSION-quantized")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, max=1e6, help="Seconds that all of it may take.")
    ] = 600.0,
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model store. Env: INFERLANE_MODELS_DIR.",
            show_default=".inferlane/models",
        ),
    ] = None,
) -> None:
    """Quantize a version to int8, measure it on this machine, and publish it if it pays. Exit 1 if it does not."""
    try:
        model, name = version_named(version)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
    settings = load_settings() if models_dir is None else load_settings(models_dir=models_dir)
    with missing_extra_explained("quantizing", _NEEDS):
        from models.quantizing.gate import Limits  # noqa: PLC0415 - numpy and the model tools, for this command alone
        from models.quantizing.quantization import Quantization, quantize_version  # noqa: PLC0415

        quantization = Quantization(
            model=model,
            version=name,
            models_dir=settings.stack.models_dir,
            data=data,
            labels=labels,
            approach=None if method is QuantizeMethod.AUTO else str(method),
            limits=Limits(min_speedup=min_speedup, max_accuracy_drop=max_accuracy_drop),
            threads=settings.worker.intra_op_num_threads,
            timeout_s=timeout_s,
            target=target,
        )
        with err.status("reading") as status:
            quantized = quantize_version(quantization, say=status.update)
    _show(quantized, version)
    if quantized.published is None:
        raise typer.Exit(1)


def _show(quantized: "Quantized", version: str) -> None:
    report = quantized.report
    out.print(_table(report))
    measured = report.measurement
    compared = "right answers" if measured.source.accuracy is not None else "agreement with float32"
    out.print(
        f"{report.cpu}, {report.threads} thread{'s' * (report.threads != 1)}; {compared} by {measured.output} on "
        f"{measured.held_out_rows} held-out rows, calibrated on {measured.calibration_rows} others",
        soft_wrap=True,
    )
    for one in report.judged:
        if one.measured.rows_alone:
            out.print(
                f"{one.measured.method}: the answer to a row depends on the rows beside it, so each row runs alone",
                soft_wrap=True,
            )
        for reason in one.reasons:
            out.print(styled(("✗", "red"), f" {one.measured.method}: {reason}"), soft_wrap=True)
    if quantized.published is None:
        fastest = max((one.speedup for one in report.judged), default=0.0)
        verdict = f"int8 does not pay for {version} on this machine"
        figures = f": the fastest form is {fastest:.2f}x as fast as float32 in the mean" if fastest else ""
        out.print(styled((verdict, "bold"), f"{figures}. Nothing was published."), soft_wrap=True)
        return
    published = quantized.published
    out.print(styled(("✓", "green"), f" {published.model} {published.version} in {published.folder}"), soft_wrap=True)


def _table(report: "QuantizationReport") -> Table:
    source = report.measurement.source
    headings = (f"{rows} row{'s' * (rows != '1')}" for rows in source.latency_us)
    table = Table("", "size", *headings, "mean", "accuracy", "agrees", "gate")
    table.add_row("float32", *_cells(source, source), "", _share(source.accuracy), "", "")
    for one in report.judged:
        form = one.measured
        if form.fault is not None:
            table.add_row(form.method, "-", *("-" for _ in source.latency_us), "-", "-", "-", "no")
            continue
        verdict = "no" if one.reasons else "passes"
        cells = (f"{one.speedup:.2f}x", _share(form.accuracy), f"{form.agreement:.2%}", verdict)
        table.add_row(form.method, *_cells(source, form), *cells)
    return table


def _cells(source: "MeasuredForm", form: "MeasuredForm") -> list[str]:
    """Size and latencies, with their ratios to those of float32."""

    def ratio(before: float, after: float) -> str:
        return "" if form is source else f" ({before / after:.2f}x)"

    size = f"{form.size_bytes / 1024:,.0f} KiB{ratio(source.size_bytes, form.size_bytes)}"
    times = [f"{us:,.0f} µs{ratio(source.latency_us[rows], us)}" for rows, us in form.latency_us.items()]
    return [size, *times]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"

"""`inferlane batch`: score a file through the bulk lane."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inferlane.cli.console import err
from inferlane.cli.reaching import reachable_settings

if TYPE_CHECKING:
    from inferlane.bulk.job import JobReport, JobSpec
    from inferlane.config import Settings
    from inferlane.signature import Signature

app = typer.Typer(no_args_is_help=True, help="Score files through the bulk lane.")


@app.callback()
def batch() -> None:
    """Score files through the bulk lane."""


@app.command()
def submit(
    rows: Annotated[Path, typer.Argument(help="A .csv (a row a line) or .jsonl (an instance a line) file.")],
    out: Annotated[Path, typer.Option(help="Where the results go, JSON lines in the order of the rows.")],
    model: Annotated[str | None, typer.Option(help="Default: the default model.")] = None,
    version: Annotated[str | None, typer.Option(help="Default: the traffic split decides, record by record.")] = None,
    rows_per_record: Annotated[
        int, typer.Option(min=1, max=10_000, help="Rows packed into one record; one record is one inference run.")
    ] = 256,
    stall_timeout_s: Annotated[
        float, typer.Option(min=1, help="Give up when no result came for this long, in seconds.")
    ] = 60.0,
) -> None:
    """Send every row, wait for every result, write them in order.

    Rows that do not fit the model are written as errors and not sent. Exit 1 when any row has no prediction.
    """
    from inferlane.bulk.job import JobSpec  # noqa: PLC0415 - keep `inferlane --help` fast
    from models.catalog import load_catalog  # noqa: PLC0415 - as above

    settings = reachable_settings()
    known = load_catalog(settings.models_dir, default_model=settings.default_model).model(model)
    served = known.version(version or known.default_version)
    spec = JobSpec(model=known.name, version=version, classes=served.classes, stall_timeout_s=stall_timeout_s)
    started_s = time.monotonic()
    report = _run(settings, spec, served.signature, rows=rows, out=out, rows_per_record=rows_per_record)
    seconds = time.monotonic() - started_s
    total = report.succeeded + report.failed + report.invalid
    err.print(
        f"batch {report.batch_id}: {total:,} rows in {seconds:.1f} s ({total / seconds:,.0f} rows/s): "
        f"{report.succeeded:,} succeeded, {report.failed:,} failed, {report.invalid:,} invalid; results in {out}"
    )
    if report.failed or report.invalid:
        raise typer.Exit(1)


def _run(
    settings: "Settings", spec: "JobSpec", signature: "Signature", *, rows: Path, out: Path, rows_per_record: int
) -> "JobReport":
    from inferlane.bulk.job import BulkJob  # noqa: PLC0415 - keep `inferlane --help` fast
    from inferlane.bulk.rows import count_rows, read_chunks  # noqa: PLC0415 - as above

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    # Results appear under their own name only when all are there.
    partial = out.with_name(out.name + ".partial")
    with progress, partial.open("wb") as file:
        bar = progress.add_task("scoring", total=count_rows(rows), rate="")
        started_s = time.monotonic()

        def advance(count: int) -> None:
            progress.advance(bar, count)
            done = progress.tasks[0].completed
            progress.update(bar, rate=f"{done / max(1e-9, time.monotonic() - started_s):,.0f} rows/s")

        chunks = read_chunks(rows, signature, rows_per_chunk=rows_per_record)
        report = asyncio.run(BulkJob(settings, spec, on_progress=advance).run(chunks, file))
    partial.replace(out)
    return report

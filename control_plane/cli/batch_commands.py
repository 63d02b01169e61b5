"""`inferlane batch`: score a file through the bulk lane."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.bulk.formats import HeaderLine, ReadOptions
from control_plane.cli.batch_files import check_files, results_written
from control_plane.cli.console import err, reachable_settings, run_work
from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from control_plane.bulk.job import JobReport, JobSpec
    from control_plane.bulk.rows import RowFile
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings

# As many rows as a record may have at most; the first few that do not fit tell what is wrong with the file.
_CHECKED_AT_ONCE, _SHOWN_REJECTS = 10_000, 5

app = typer.Typer(no_args_is_help=True, help="Score files through the bulk lane.")


@app.callback()
def batch() -> None:
    """Score files through the bulk lane."""


@app.command()
def submit(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    rows: Annotated[Path, typer.Argument(help="A .csv (a row a line), .jsonl (an instance a line) or .parquet file.")],
    out: Annotated[Path, typer.Option(help="Where the results go, JSON lines in the order of the rows.")],
    model: Annotated[str | None, typer.Option(help="Default: the default model.")] = None,
    version: Annotated[str | None, typer.Option(help="Default: the traffic split decides, record by record.")] = None,
    rows_per_record: Annotated[
        int, typer.Option(min=1, max=10_000, help="Rows packed into one record; one record is one inference run.")
    ] = 256,
    header: Annotated[
        HeaderLine, typer.Option(help="Whether the first line of a CSV names the columns; auto: if it holds no number.")
    ] = HeaderLine.AUTO,
    delimiter: Annotated[
        str, typer.Option(help="Of a CSV: auto, comma, semicolon, tab, pipe or one character.")
    ] = "auto",
    encoding: Annotated[str, typer.Option(help="Of the file: auto (UTF-8, UTF-16 or Latin-1), or any other.")] = "auto",
    missing: Annotated[
        float | None,
        typer.Option(
            help="Number for missing values of a CSV (empty, NA, null, …) or Parquet file (null, NaN).",
            show_default="their rows are invalid",
        ),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(
            help="Also write rows that do not fit here, JSON lines with line, reason and text.", show_default="none"
        ),
    ] = None,
    refuse_invalid: Annotated[
        bool,
        typer.Option("--refuse-invalid", help="Read the whole file first, and send nothing if a row does not fit."),
    ] = False,
    stall_timeout_s: Annotated[
        float, typer.Option(min=1, max=1e6, help="Give up after this many seconds without a result.")
    ] = 60.0,
) -> None:
    """Send every row, wait for every result, write them in order.

    Rows that do not fit the model are written as errors and not sent. Exit 1 when any row has no prediction.
    """
    from control_plane.bulk.job import JobSpec  # noqa: PLC0415 - keep `inferlane --help` fast
    from control_plane.bulk.rows import RowFile  # noqa: PLC0415 - as above
    from models.store_reader import load_catalog  # noqa: PLC0415 - as above

    check_files(rows, out=out, rejects=rejects)
    settings = reachable_settings()
    known = load_catalog(settings.stack.models_dir, default_model=settings.stack.default_model).model(model)
    served = known.version(version or known.default_version)
    classes = {name: one.class_names for name, one in known.versions.items()}
    spec = JobSpec(model=known.name, version=version, classes=classes, stall_timeout_s=stall_timeout_s)
    started_s = time.monotonic()
    options = ReadOptions(header=header, delimiter=delimiter, encoding=encoding, missing=missing)
    file = RowFile(rows, served.signature, options)
    err.print(f"{rows}: {file.format}", soft_wrap=True)
    if refuse_invalid:
        _refuse_invalid(file, rows, rejects)
    report = _run(
        settings.kafka,
        settings.stack.names,
        spec,
        file,
        rows=rows,
        out=out,
        rejects=rejects,
        rows_per_record=rows_per_record,
    )
    seconds = time.monotonic() - started_s
    total = report.succeeded + report.failed + report.invalid
    err.print(
        f"batch {report.batch_id}: {total:,} rows in {seconds:.1f} s ({total / seconds:,.0f} rows/s): "
        f"{report.succeeded:,} succeeded, {report.failed:,} failed, {report.invalid:,} invalid"
        f"{f', paused {report.paused_s:.1f} s for clients' if report.paused_s else ''}"
        f"{f', {file.empty_lines:,} empty lines passed over' if file.empty_lines else ''}; results in {out}",
        soft_wrap=True,
    )
    if report.failed or report.invalid:
        raise typer.Exit(1)


def _refuse_invalid(file: "RowFile", rows: Path, rejects: Path | None) -> None:
    """Return if every row fits; those that do not are written to `rejects`, if given.

    Raises:
        ConfigurationError: the message has the first ones that do not.
    """
    from control_plane.bulk.result_lines import rejects_written  # noqa: PLC0415 - keep `inferlane --help` fast

    with rejects_written(rejects) as write_rejects:
        chunks = map(write_rejects, file.chunks(rows_per_chunk=_CHECKED_AT_ONCE))
        found = [reject for chunk in chunks for reject in chunk.rejects]
    if found:
        first = "; ".join(reject.detail for reject in found[:_SHOWN_REJECTS])
        more = f"; and {len(found) - _SHOWN_REJECTS:,} more" if len(found) > _SHOWN_REJECTS else ""
        listed = "" if rejects is None else f" All are in {rejects}."
        raise ConfigurationError(
            f"{len(found):,} rows of {rows} do not fit the model: {first}{more}. Nothing was sent; correct them, or "
            f"leave --refuse-invalid out to send the others.{listed}"
        )


def _run(  # noqa: PLR0913 - two files in, two out
    kafka: "KafkaSettings",
    names: "Names",
    spec: "JobSpec",
    file: "RowFile",
    *,
    rows: Path,
    out: Path,
    rejects: Path | None,
    rows_per_record: int,
) -> "JobReport":
    from rich.progress import (  # noqa: PLC0415 - keep `inferlane --help` fast
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from control_plane.bulk.job import BulkJob  # noqa: PLC0415 - as above
    from control_plane.bulk.result_lines import rejects_written  # noqa: PLC0415 - as above
    from control_plane.bulk.rows import count_rows  # noqa: PLC0415 - as above

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    with progress, results_written(out) as results, rejects_written(rejects) as write_rejects:
        bar = progress.add_task("scoring", total=count_rows(rows), rate="")
        started_s = time.monotonic()

        def advance(count: int) -> None:
            progress.advance(bar, count)
            done = progress.tasks[0].completed
            progress.update(bar, rate=f"{done / max(1e-9, time.monotonic() - started_s):,.0f} rows/s")

        chunks = map(write_rejects, file.chunks(rows_per_chunk=rows_per_record))
        return run_work(BulkJob(kafka, names, spec, on_progress=advance).run(chunks, results))

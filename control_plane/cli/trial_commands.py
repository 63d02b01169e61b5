"""`inferlane replay`, `shadow` and `reroute`: try a version on recorded requests, see what it said, give it up."""

import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.cli.console import AsJson, err, out, reachable_settings, run_work, write_json

# Reading the topics loads the Kafka and Redis clients: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from control_plane.recorded_requests import ReplayProgress, Selection
    from inferlane.contracts.shadow import Comparison, ShadowReport
    from inferlane.runtime.config import Settings
    from inferlane.runtime.settings import StackSettings

Model = Annotated[str, typer.Argument(help="The model.")]


def replay(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    model: Model,
    to: Annotated[str, typer.Option("--to", help="The version that is tried.")],
    since: Annotated[
        str,
        typer.Option(
            help="Requests since then: 30s, 15m, 2h, 3d ago, or an RFC 3339 time; topics keep 3 days by default."
        ),
    ] = "24h",
    sample: Annotated[str, typer.Option(help="The share of them that is sent, such as 5%.")] = "5%",
    rate: Annotated[float, typer.Option(min=0.1, max=100_000, help="Requests a second, at most.")] = 50.0,
    against: Annotated[
        str | None, typer.Option(help="The version to compare with. Default: that with the largest weight.")
    ] = None,
    min_agreement: Annotated[
        str | None, typer.Option(help="Exit 1 if fewer rows than this agree, such as 99%. Default: no limit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send recorded requests through a version and through the one in force, and compare the answers row by row.

    Copies use the bulk lane of both versions, and wait while either is behind. Nothing reaches a client.
    """
    from control_plane.dead_letter_text import since_seconds
    from control_plane.recorded_requests import Selection

    settings = reachable_settings()
    selection = Selection(since_s=since_seconds(since), sample=_share("--sample", sample))
    _refuse_unknown(settings.stack, model, to)
    floor = None if min_agreement is None else _share("--min-agreement", min_agreement)
    report = run_work(_replay(settings, selection, model=model, to=to, against=against, rate_per_s=rate))
    _show(report, as_json=as_json)
    if floor is not None and (report.agreement is None or report.agreement < floor):
        agreed = "no row was compared" if report.agreement is None else f"{report.agreement:.2%} of the rows agree"
        err.print(f"{agreed}; --min-agreement asks for {floor:.2%}")
        raise typer.Exit(1)


def shadow(
    model: Model,
    version: Annotated[str, typer.Argument(help="The version that gets the copies.")],
    run: Annotated[
        str, typer.Option(help="A rollout's or a replay's id. Default: copies that a split without a rollout asks for.")
    ] = "manual",
    rows: Annotated[int, typer.Option(min=0, max=100, help="Rows that disagree, the most distant first.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what shadow copies said about a version, and the rows that disagree most."""
    settings = reachable_settings()
    _refuse_unknown(settings.stack, model, version)
    _show(run_work(_read(settings, model, version, run, rows)), as_json=as_json)


def reroute(
    model: Model,
    version: Annotated[str, typer.Argument(help="The version that is given up. Take its weight away before.")],
    to: Annotated[str, typer.Option("--to", help="The version that answers instead.")],
) -> None:
    """Move the requests that wait for a version to another one, under their ids. Requests that pin the version stay."""
    settings = reachable_settings()
    _refuse_unknown(settings.stack, model, version, to)
    done = run_work(_reroute(settings, model, version, to))
    out.print(f"moved {done[0]:,} requests of {model} {version} to {to}; left {done[1]:,} (pinned, or shadow copies)")


async def _reroute(settings: "Settings", model: str, version: str, to: str) -> tuple[int, int]:
    from inferlane.runtime.kafka.producer import BatchProducer
    from inferlane.runtime.redis.connection import connect
    from inferlane.runtime.rerouting import MovedRequests, reroute_backlog
    from inferlane.runtime.retry import SystemClock

    producer = BatchProducer(settings.kafka)
    async with connect(settings.store.redis_url) as redis:
        moved = MovedRequests(
            redis, redis_url=settings.store.redis_url, names=settings.stack.names, clock=SystemClock()
        )
        await producer.start()
        try:
            done = await reroute_backlog(
                settings.kafka,
                settings.stack.names,
                model=model,
                version=version,
                to_version=to,
                producer=producer,
                moved=moved,
            )
        finally:
            await producer.close()
    return done.moved, done.left


async def _read(settings: "Settings", model: str, version: str, run: str, rows: int) -> "ShadowReport":
    from inferlane.runtime.redis.connection import connect
    from inferlane.runtime.redis.shadow_results import ShadowResults

    async with connect(settings.store.redis_url) as redis:
        results = ShadowResults(redis, redis_url=settings.store.redis_url, names=settings.stack.names)
        return await results.read(model, version, run, limit=rows)


async def _replay(
    settings: "Settings", selection: "Selection", *, model: str, to: str, against: str | None, rate_per_s: float
) -> "ShadowReport":
    from control_plane.recorded_requests import open_recorded
    from inferlane.contracts.shadow import Comparison

    stable = against or await _largest_weight(settings, model)
    _refuse_unknown(settings.stack, model, stable, to)
    comparison = Comparison(model=model, stable=stable, shadow=to, run=f"replay-{secrets.token_hex(4)}")
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    async with open_recorded(settings.kafka, settings.stack, settings.store.redis_url, comparison) as recorded:
        with Bar(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
            task = bar.add_task("reading", total=None)

            def sent(progress: "ReplayProgress") -> None:
                bar.update(task, description=f"sent {progress.sent:,} of {progress.read:,} requests read")

            progress = await recorded.send(selection, rate_per_s=rate_per_s, on_progress=sent)
            _say_what_was_kept(progress, selection)

            def arrived(report: "ShadowReport") -> None:
                text = f"compared {report.copies:,} of {progress.sent:,}"
                bar.update(task, description=text, completed=report.copies, total=progress.sent)

            report = await recorded.compared(progress.sent, on_report=arrived)
    missing = progress.sent - report.copies
    if missing > 0:
        err.print(
            f"{missing:,} of {progress.sent:,} copies have no comparison: {stable} failed on them, or no worker ran"
        )
    _say_run(comparison)
    return report


def _say_what_was_kept(progress: "ReplayProgress", selection: "Selection") -> None:
    if progress.unreadable:
        err.print(f"skipped {progress.unreadable:,} records whose headers cannot be read", style="yellow")
    # A minute: the first request may simply have come a little later.
    if progress.oldest_s is not None and progress.oldest_s > selection.since_s + 60:
        first = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(progress.oldest_s))
        err.print(f"the request topics hold nothing before {first}; retention.ms of the topics says how long they keep")


def _say_run(comparison: "Comparison") -> None:
    names = f"{comparison.model} {comparison.shadow} --run {comparison.run}"
    err.print(f"rows that disagree, kept for 7 days: inferlane shadow {names}")


async def _largest_weight(settings: "Settings", model: str) -> str:
    from inferlane.runtime.split_table import SplitFollower, SplitTable
    from models.store_reader import load_catalog

    table = SplitTable()
    follower = SplitFollower(settings.kafka, settings.stack.names, table)
    await follower.start()
    await follower.close()
    catalog = load_catalog(settings.stack.models_dir, default_model=settings.stack.default_model)
    return catalog.model(model).unpinned(table.get(model)).version


def _refuse_unknown(stack: "StackSettings", model: str, *versions: str) -> None:
    """Return if the model has these versions.

    Raises:
        UnknownModelError: it has not; nothing was sent.
    """
    from models.store_reader import load_catalog

    known = load_catalog(stack.models_dir, default_model=stack.default_model).model(model)
    for version in versions:
        known.version(version)
    if len(set(versions)) < len(versions):
        raise typer.BadParameter(f"{versions[0]!r} is named twice; name two versions of {model}")


def _share(option: str, text: str) -> float:
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r} is no share; write it as 5% or 0.05") from error
    if not 0 < share <= 1:
        raise typer.BadParameter(f"{option} {text!r} is not above 0 and at most 100%")
    return share


def _show(report: "ShadowReport", *, as_json: bool) -> None:
    if as_json:
        write_json(report)
        return
    table = Table("", f"{report.model} {report.version}", "its original", box=None)
    agreement = "-" if report.agreement is None else f"{report.agreement:.2%}"
    distance = "-" if report.mean_distance is None else f"{report.mean_distance:.4f}"
    failures = ", ".join(f"{count:,} {code}" for code, count in report.failures.items())
    table.add_row("copies", f"{report.copies:,}", "")
    table.add_row("failed", f"{report.failed:,} {failures and f'({failures})'}".rstrip(), "")
    table.add_row("expired", f"{report.expired:,}", "")
    table.add_row("rows compared", f"{report.compared_rows:,}", "")
    table.add_row("rows that agree", agreement, "")
    table.add_row("mean distance", distance, "")
    table.add_row("time a row, p50", _ms(report.row_time_ms_p50), _ms(report.original_row_time_ms_p50))
    table.add_row("time a row, p95", _ms(report.row_time_ms_p95), _ms(report.original_row_time_ms_p95))
    out.print(table)
    if not report.disagreements:
        return
    rows = Table("distance", "original", report.version, "request id", "row", "inputs", box=None)
    for row in report.disagreements:
        inputs = "; ".join(f"{name} {values}" for name, values in row.inputs.items())
        rows.add_row(f"{row.distance:.3f}", row.original, row.shadow, row.request_id, str(row.row), inputs)
    out.print(rows)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms"

"""How a load test's numbers are shown: a live line while it runs, tables at its end, a JSON file for machines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from .consistency import Consistency
    from .statistics import Latency, Summary, Tally

PLAIN_WIDTH = 110
REFRESH_S = 0.2


def make_console(*, stderr: bool = False) -> Console:
    """Return a console for a terminal, or one of fixed width and no colour where output goes elsewhere."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def make_table(console: Console, *columns: str) -> Table:
    """Return a table whose columns after the first hold numbers; plain characters outside a terminal."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left")
    return table


@contextlib.asynccontextmanager
async def live_progress(tally: Tally, *, total: int) -> AsyncIterator[None]:
    """Refresh one line with the counts so far; say nothing where standard error is no terminal."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        line = progress.add_task("", total=total)
        refreshing = asyncio.create_task(_refresh(progress, line, tally))
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.wait([refreshing])


async def _refresh(progress: Progress, line: TaskID, tally: Tally) -> None:
    start_s = time.perf_counter()
    while True:
        # A running count, to see that it lives; the report's rate is the one that counts.
        rate = tally.finished / max(time.perf_counter() - start_s, REFRESH_S)
        statuses = " ".join(f"{status}: {count:,}" for status, count in sorted(tally.statuses.items()))
        text = f"sent {tally.sent:,}  {statuses}  waiting {tally.sent - tally.finished:,}  {rate:,.0f}/s"
        progress.update(line, completed=tally.finished + tally.overflow, description=text, refresh=True)
        await asyncio.sleep(REFRESH_S)


class Report:
    """Prints everything that came of a run, the notes last."""

    def __init__(self, console: Console, *, is_open: bool) -> None:
        self._console = console
        self._is_open = is_open

    def show(self, summary: Summary, consistency: Consistency | None, notes: list[str]) -> None:
        self._show_counts(summary)
        self._show_latency(summary)
        if summary.versions:
            self._show_shares(summary)
        if consistency is not None:
            self._show_consistency(consistency)
        for note in notes:
            self._console.print(note, markup=False)

    def _show_counts(self, summary: Summary) -> None:
        table = make_table(self._console, "Requests", "count")
        table.add_row("sent", f"{summary.sent:,}")
        for status, count in summary.statuses.items():
            table.add_row(f"  answered {status}" if status.isdigit() else f"  no answer: {status}", f"{count:,}")
        for code, count in summary.codes.items():
            table.add_row(f"  problem code {code}", f"{count:,}")
        if summary.abandoned:
            table.add_row("  given up at the stop, still waiting", f"{summary.abandoned:,}")
        if summary.overflow:
            table.add_row("not sent: too many outstanding", f"{summary.overflow:,}")
        table.add_row("elapsed", f"{summary.elapsed_s:.2f} s")
        table.add_row("answered per second", f"{summary.answered_per_s:,.1f}")
        self._console.print(table)

    def _show_latency(self, summary: Summary) -> None:
        rows: list[tuple[str, Latency | None]] = [("answered 200", summary.latency)]
        if self._is_open:
            rows = [
                ("answered 200, from when it was due", summary.latency),
                ("answered 200, from the send", summary.service),
                ("sent after it was due, by", summary.send_delay),
            ]
        table = make_table(self._console, "Latency in ms, all samples", "samples", "p50", "p90", "p95", "p99", "max")
        for name, latency in [*rows, ("any other outcome", summary.other_latency)]:
            if latency is not None:
                values = (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms, latency.max_ms)
                table.add_row(name, f"{latency.samples:,}", *(f"{value:,.2f}" for value in values))
        if table.row_count:
            self._console.print(table)

    def _show_shares(self, summary: Summary) -> None:
        table = make_table(self._console, "Version", "answers", "share")
        total = sum(summary.versions.values())
        for version, count in summary.versions.items():
            table.add_row(version or "(not named)", f"{count:,}", f"{count / total:.2%}")
        self._console.print(table)

    def _show_consistency(self, consistency: Consistency) -> None:
        verdict = f"{consistency.violations:,} contradictions" if consistency.violations else "no contradiction"
        self._console.print(
            f"Check: {consistency.checked:,} answers, {verdict}; "
            f"largest difference of a probability {consistency.largest_difference:.2g}",
        )
        for violation in consistency.told:
            self._console.print(f"  {violation}", markup=False)


def write_json(path: Path, run: Mapping[str, object], summary: Summary, consistency: Consistency | None) -> None:
    """Write the run's options and numbers; the file is whole or absent, never half."""
    document: dict[str, object] = {"run": dict(run), **asdict(summary), "all_succeeded": summary.all_succeeded}
    if consistency is not None:
        document["check"] = {
            "checked": consistency.checked,
            "violations": consistency.violations,
            "largest_difference": consistency.largest_difference,
            "told": consistency.told,
        }
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    partial.replace(path)

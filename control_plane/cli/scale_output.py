"""The output of `inferlane scale`: tables, CSV files and pictures."""

import csv
from typing import TYPE_CHECKING

from rich.table import Table

from control_plane.autoscaling.simulated_load import LANES
from control_plane.cli.console import styled
from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from control_plane.autoscaling.capacity_plan import Capacity, CapacityPlan, Demand
    from control_plane.autoscaling.simulation import PoolModel, PoolRun, Summary

# Rows of the printed course of a run: it must fit a screen.
_ROWS = 16


def print_run(out: "Console", pool: "PoolModel", run: "PoolRun", summary: "Summary", *, versions: int) -> None:
    """Print the ScaledObject that was tried, the run over time, and its totals."""
    scaled_object = pool.scaled_object
    _say(
        out,
        f"{scaled_object.name}: {scaled_object.min_replicas} to {scaled_object.max_replicas} workers a version, "
        f"{versions} version{'s' * (versions > 1)}, poll every {scaled_object.polling_interval_s} s, "
        f"asleep after {scaled_object.cooldown_s} s without lag",
    )
    for trigger in scaled_object.triggers:
        _say(out, f"  {trigger.topic}: lagThreshold {trigger.lag_threshold}")
    _say(out, f"  a worker finishes {pool.pace.records_per_s:,.0f} records a second, is ready after {pool.start_s:g} s")
    table = Table("time", "records/s", "desired", "ready", "lag", *(f"wait, {lane}" for lane in LANES), box=None)
    step_s = run.time_s[1] - run.time_s[0] if len(run.time_s) > 1 else 1.0
    for row in _rows_to_show(run):
        table.add_row(
            _clock(run.time_s[row]),
            f"{run.arrived[row].sum() / step_s:,.0f}",
            f"{run.desired[row]:.0f}",
            f"{run.ready[row]:.0f}",
            f"{run.lag_records[row].sum():,.0f}",
            *(_seconds(wait) for wait in run.wait_s[row]),
        )
    out.print(table)
    _say(
        out,
        f"{summary.records:,.0f} records; at most {summary.peak_workers} workers, {summary.worker_hours:.2f} "
        f"worker hours, asleep {summary.asleep_share:.0%} of the time; at most {summary.peak_lag_records:,.0f} "
        f"waited, {summary.left_records:,.0f} at the end",
    )
    for lane, waits in summary.waits.items():
        _say(
            out,
            f"  wait of {lane}: half within {_seconds(waits.p50_s)}, 99 % within {_seconds(waits.p99_s)}, "
            f"all within {_seconds(waits.max_s)}",
        )


def print_plan(out: "Console", demand: "Demand", capacity: "Capacity", plan: "CapacityPlan") -> None:
    """Print the capacity that a demand needs, and what to change where a topic has too few partitions."""
    versions = len(demand.shares)
    table = Table("what", "how many", "why", box=None)
    busy = f"{capacity.busy_share:.0%} busy"
    table.add_row("workers", str(plan.workers), f"{busy} at the peak; the busiest version has {plan.busiest_workers}")
    table.add_row("API replicas", str(plan.api_replicas), f"{capacity.api_per_s:,.0f} requests/s each, {busy}")
    table.add_row("router replicas", str(plan.router_replicas), f"{capacity.router_per_s:,.0f} records/s each, {busy}")
    table.add_row("topics", str(plan.topics), f"2 lanes for each of {versions} versions, and the shared ones")
    table.add_row("partitions", f"{plan.partitions:,}", f"{demand.work_partitions} for each lane of a version")
    table.add_row("consumer groups", str(plan.consumer_groups), "one a version, three of the router")
    table.add_row(
        "brokers",
        str(plan.brokers),
        f"or more, by partitions: {demand.replication_factor} replicas each, {capacity.broker_partitions:,} a broker",
    )
    table.add_row(
        "produced", f"{plan.produced_mb_per_s:,.1f} MB/s", "every record goes to two topics; without replicas"
    )
    out.print(styled((f"{demand.rate_per_s:,.0f} requests/s over {versions} versions", "bold")))
    out.print(table)
    if plan.short_versions:
        out.print(
            styled(
                (
                    f"{plan.short_versions} of the versions need more workers than their topics have partitions",
                    "yellow",
                ),
                f" ({demand.work_partitions}): give them more, and maxReplicaCount with them, or send less to them.",
            )
        )


def write_run(path: "Path", run: "PoolRun", *, title: str) -> None:
    """Write the run as CSV or as a picture, by the ending of the name.

    Raises:
        ConfigurationError: another ending, the file cannot be written, or matplotlib is missing for a picture.
    """
    try:
        if path.suffix == ".csv":
            _write_csv(path, run)
        elif path.suffix in {".png", ".svg", ".pdf"}:
            _write_picture(path, run, title)
        else:
            raise ConfigurationError(f"{path} ends in {path.suffix!r}; write .csv, .png, .svg or .pdf.")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}. Name another file.") from error


def _write_csv(path: "Path", run: "PoolRun") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        lanes = [f"{what}_{lane}" for what in ("arrived", "lag_records", "wait_s") for lane in LANES]
        writer.writerow(["time_s", "desired", "ready", *lanes])
        for row in range(len(run.time_s)):
            writer.writerow(
                [
                    f"{value:g}"
                    for value in (
                        run.time_s[row],
                        run.desired[row],
                        run.ready[row],
                        *run.arrived[row],
                        *run.lag_records[row],
                        *run.wait_s[row],
                    )
                ]
            )


def _write_picture(path: "Path", run: "PoolRun", title: str) -> None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise ConfigurationError(
            "a picture needs matplotlib: pip install 'inferlane[plot]', or write a .csv."
        ) from error
    figure = Figure(figsize=(10, 8), layout="constrained")
    workers, lag, wait = figure.subplots(3, sharex=True)
    minutes = run.time_s / 60
    workers.step(minutes, run.desired, where="post", label="desired")
    workers.fill_between(minutes, run.ready, step="post", alpha=0.3, label="ready")
    workers.set(ylabel="workers", title=title)
    for number, lane in enumerate(LANES):
        if run.arrived[:, number].any():
            lag.plot(minutes, run.lag_records[:, number], label=lane)
            wait.plot(minutes, run.wait_s[:, number], label=lane)
    lag.set(ylabel="lag, records")
    wait.set(ylabel="wait, s", xlabel="minutes")
    for part in (workers, lag, wait):
        part.set_ylim(bottom=0)
        part.legend(loc="upper right")
        part.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _say(out: "Console", text: str) -> None:
    # Lines are for the eye and for grep: the terminal wraps them, we do not.
    out.print(text, soft_wrap=True)


def _rows_to_show(run: "PoolRun") -> list[int]:
    """Return the steps at which the desired replicas change, thinned out evenly, with the first and the last."""
    changes = [row for row in range(1, len(run.desired)) if run.desired[row] != run.desired[row - 1]]
    every = -(-len(changes) // _ROWS) or 1
    return sorted({0, *changes[::every], len(run.desired) - 1})


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(round(time_s), 60)
    return f"{minutes}:{seconds:02d}"


def _seconds(wait_s: float) -> str:
    if wait_s != wait_s:  # noqa: PLR0124 - NaN: nothing came
        return "-"
    return "not taken" if wait_s == float("inf") else f"{wait_s:.0f} s"

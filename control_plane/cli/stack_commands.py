"""`inferlane down`, `restart` and `status`: a stack that runs on this machine."""

import time
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from control_plane.cli.console import AsJson, load_settings, out, run_work, styled, write_json
from inferlane.errors import ConfigurationError

# The stack loads the Kafka, Redis and HTTP clients: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from inferlane.runtime.runfile import RunRecord
    from inferlane.runtime.settings import KafkaSettings

# API, workers and router drain one after the other, then broker and store stop: each within its own deadline.
_DRAINS_IN_A_ROW = 4


def down() -> None:
    """Stop the stack that `inferlane up` started here; accepted requests are finished first."""
    from control_plane.local.detached_stack import stop_detached
    from inferlane.runtime.runfile import RunFile

    settings = load_settings()
    file = RunFile(settings.stack.state_dir)
    record = file.read()
    if record is None:
        out.print(f"no stack runs here ({file.path})")
        return
    started_s = time.monotonic()
    was_running = record.is_running
    with out.status("stopping: API, workers and router finish accepted requests"):
        orphans = stop_detached(record, wait_s=stop_within_s(settings.kafka))
    try:
        file.remove()
    except OSError as error:
        out.print(f"{file.path} could not be removed ({error.strerror}); it names processes that are gone")
    if orphans:
        said = ("left by a supervisor that was killed, stopped now:", "yellow")
        out.print(styled(said, f" {', '.join(orphans)}"), soft_wrap=True)
    elif was_running:
        out.print(f"stopped {len(record.processes)} processes in {time.monotonic() - started_s:.1f} s")
    else:
        out.print(f"no stack ran here any more; removed {file.path}")


def restart() -> None:
    """Drain and start again each API process, one after the other; with several of them others serve meanwhile."""
    import signal

    import psutil

    from inferlane.runtime.runfile import RunFile, same_process

    file = RunFile(load_settings().stack.state_dir)
    record = file.read()
    supervisor = record and same_process(record.pid, record.create_time_s)
    if not record or not supervisor or record.phase != "ready":
        raise ConfigurationError(f"no stack is ready here ({file.path}); start one with `inferlane up`")
    try:
        supervisor.send_signal(signal.SIGUSR2)
    except psutil.NoSuchProcess as error:
        raise ConfigurationError("the stack has ended just now; start one with `inferlane up`") from error
    out.print("restarting the API; `inferlane status` shows how far it is", soft_wrap=True)


def status(as_json: AsJson = False) -> None:
    """Show each process of the stack: pid, state, restarts, uptime, readiness. Exit 1 unless all are well."""
    from control_plane.local.stack_report import fault_lines, folder_fault, readiness_of, status_document
    from inferlane.runtime.runfile import RunFile

    file = RunFile(load_settings().stack.state_dir)
    record = file.read()
    if record is None or not record.is_running:
        if as_json:
            write_json({"phase": "absent", "processes": []})
        else:
            out.print(f"no stack runs here ({file.path}); start one with `inferlane up`")
        raise typer.Exit(1)
    readiness = run_work(readiness_of(record))
    is_well = record.phase == "ready" and not record.faults and all(ready == "ready" for ready in readiness)
    if as_json:
        write_json(status_document(record, readiness, folder=file.path.parent))
        raise typer.Exit(0 if is_well else 1)
    table = Table("process", "pid", "state", "restarts", "uptime", "port", "readiness", box=None)
    for entry, ready in zip(record.processes, readiness, strict=True):
        uptime = f"{time.time() - entry.create_time_s:.0f} s" if entry.pid else "-"
        name = f"{entry.name} ({len(entry.versions)} versions)" if entry.versions else entry.name
        table.add_row(name, str(entry.pid), entry.state, str(entry.restarts), uptime, str(entry.port), ready)
    out.print(f"stack {record.phase}, supervisor pid {record.pid}, {record.api_url}")
    out.print(table)
    for line in fault_lines(record):
        out.print(line, soft_wrap=True)
    fault = folder_fault(file.path.parent)
    troubles = [*record.troubles, *([f"state directory: {fault}"] if fault else [])]
    for trouble in troubles:
        out.print(styled(("!", "yellow"), f" {trouble}"), soft_wrap=True)
    if record.scaled_pools:
        out.print(_scaled_table(record))
    if not is_well:
        raise typer.Exit(1)


def stop_within_s(kafka: "KafkaSettings") -> float:
    """Return the seconds that a stack may take to stop."""
    return _DRAINS_IN_A_ROW * (kafka.drain_deadline_s + 5.0)


def _scaled_table(record: "RunRecord") -> Table:
    table = Table("scaled pool", "workers", "desired", "bounds", "lag", "last change", box=None)
    for pool in record.scaled_pools:
        ready = sum(entry.pool == pool.name and entry.state == "ready" for entry in record.processes)
        lag = "?" if pool.lag_records is None else str(pool.lag_records)
        table.add_row(pool.name, str(ready), str(pool.workers), f"{pool.least}-{pool.most}", lag, pool.reason)
    return table

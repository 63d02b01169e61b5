"""Start the stack in the background, stop it, and describe it from its run file."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil

from control_plane.local.managed_process import StartError
from control_plane.local.profile import DASHBOARD
from control_plane.local.stack_report import fault_lines
from control_plane.local.state_directory import open_log
from inferlane.runtime.runfile import RunFile, RunRecord, same_process

_POLL_S = 0.1
# Only for a supervisor that hangs: longer than the patience that it has with its own processes, rank by rank.
_START_WITHIN_S = 900.0
_LOG_TAIL_BYTES = 4096
# How a supervisor ends that was told to: with its signal handler, and before it has one.
_STOPPED = frozenset({0, -signal.SIGTERM, -signal.SIGINT})


def start_detached(
    file: RunFile, arguments: Sequence[str], *, first: RunRecord, on_change: Callable[[RunRecord], None]
) -> RunRecord:
    """Run `inferlane up` with these arguments in the background and return once the stack is ready.

    `first` is in the file until the supervisor writes its own record, some seconds later: `inferlane down` must find
    it at any time.

    Raises:
        StartError: it ended or failed first; the message ends with the log of the part that failed.
    """
    log_path = file.path.parent / "logs" / "supervisor.log"
    try:
        file.remove()
        log = open_log(log_path, anew=True)
    except OSError as error:
        raise StartError(
            f"{error.filename or log_path} cannot be written ({error.strerror}). Make room there or change its owner, "
            "or set INFERLANE_STATE_DIR to another folder."
        ) from error
    with log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "control_plane", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with suppress(psutil.Error, OSError):
        create_time_s = psutil.Process(process.pid).create_time()
        file.write(msgspec.structs.replace(first, pid=process.pid, create_time_s=create_time_s))
    deadline_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < deadline_s:
        ended = process.poll() is not None
        record = file.read()
        if record and record.phase == "ready":
            return record
        if process.returncode in _STOPPED:
            raise StartError("the stack was stopped while it started, by `inferlane down` or a signal")
        if ended:
            raise StartError((record and record.failure) or f"the supervisor ended. {_tail(log_path)}")
        if record:
            on_change(record)
        time.sleep(_POLL_S)
    process.terminate()
    raise StartError(f"the stack was not ready within {_START_WITHIN_S:g} s. {_tail(log_path)}")


def stop_detached(record: RunRecord, *, wait_s: float) -> tuple[str, ...]:
    """Stop the supervisor, then the processes that outlived it; return the names of those.

    Only processes that match the record by pid and start time are signalled. What runs after `wait_s` is killed.
    """
    supervisor = same_process(record.pid, record.create_time_s)
    if supervisor:
        _signal(supervisor.terminate)
        _kill_after([supervisor], wait_s)
    orphans = {
        entry.name: process
        for entry in reversed(record.processes)
        if (process := same_process(entry.pid, entry.create_time_s))
    }
    for process in orphans.values():
        _signal(process.terminate)
    _kill_after(orphans.values(), wait_s)
    return tuple(orphans)


def _signal(send: Callable[[], None]) -> None:
    """Send a signal to a process that may have ended a moment ago."""
    with suppress(psutil.NoSuchProcess):
        send()


def _kill_after(processes: Collection[psutil.Process], wait_s: float) -> None:
    """Kill those that have not ended by then. One that its parent has not asked after has ended (a zombie)."""
    until_s = time.monotonic() + wait_s
    while alive := [process for process in processes if same_process(process.pid, process.create_time())]:
        if time.monotonic() >= until_s:
            for process in alive:
                _signal(process.kill)
            return
        time.sleep(_POLL_S)


def _tail(path: Path) -> str:
    try:
        text = path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    except OSError as error:
        text = f"({error.strerror})"
    return f"End of {path}:\n{text}"


# Where its parts listen is in the lines that say that a stack is ready.
_ADDRESSES = frozenset(
    f"INFERLANE_{name}"
    for name in ("API_PORT", "GRPC_PORT", "DASHBOARD_PORT", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "ARRIVALS_DIR")
)


def unapplied(wanted: Mapping[str, str], record: RunRecord) -> tuple[str, ...]:
    """Return the variables of the settings that a running stack has another value of, in order.

    Whoever sets the file of the API keys and calls `up` again would take an open API for a closed one.
    """
    names = wanted.keys() - _ADDRESSES
    return tuple(sorted(name for name in names if record.environment.get(name) != wanted[name]))


def ready_lines(record: RunRecord) -> tuple[str, ...]:
    """Return the addresses of everything, as lines for a terminal."""
    embedded = [entry.name for entry in record.processes if not entry.ops_url]
    ops = (f"{entry.name} :{entry.port}" for entry in record.processes if entry.ops_url not in {"", record.api_url})
    grpc = record.environment.get("INFERLANE_GRPC_PORT", "0")
    pages = (f"  live     {entry.ops_url}" for entry in record.processes if entry.pool == DASHBOARD)
    lines = (
        *_headline(record),
        *pages,
        f"  API      {record.api_url}",
        *([f"  gRPC     {urlsplit(record.api_url).netloc.rpartition(':')[0]}:{grpc}"] if grpc != "0" else []),
        f"  docs     {record.api_url}/docs",
        f"  metrics  {record.api_url}/metrics, and /metrics of {', '.join(ops)}",
    )
    if not embedded:
        return lines
    return (*lines, f"  The embedded {' and '.join(embedded)} keep everything in memory: stopped, they forget.")


def _headline(record: RunRecord) -> tuple[str, ...]:
    bad = sum(fault.version is not None for fault in record.faults)
    if not record.faults:
        return ("ready: a probe went through every hop for each model version",)
    of = f"{record.served} of {record.served + bad} versions"
    return (
        f"ready with {of}: a probe went through every hop for each of the {record.served}",
        *fault_lines(record),
    )


def progress_of(record: RunRecord) -> str:
    """Return what a starting stack is waiting for."""
    waiting = [f"{entry.name} ({entry.state})" for entry in record.processes if entry.state != "ready"]
    return ", ".join(waiting) or "probing each model version"

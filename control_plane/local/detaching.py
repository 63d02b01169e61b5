"""Starts the stack in the background, and ends one that was."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from control_plane.local.keeper import StartError
from control_plane.local.logfiles import open_log
from inferlane.runtime.runfile import RunFile, RunRecord, same_process

_POLL_S = 0.1
# Only for a supervisor that hangs: longer than the patience that it has with its own processes, rank by rank.
_START_WITHIN_S = 900.0
_LOG_TAIL_BYTES = 4096


def start_detached(file: RunFile, arguments: Sequence[str], *, on_change: Callable[[RunRecord], None]) -> RunRecord:
    """Run `inferlane up` with these arguments in a session of its own and return once it is ready.

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
    deadline_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < deadline_s:
        ended = process.poll() is not None
        record = file.read()
        if record and record.phase == "ready":
            return record
        if ended:
            raise StartError((record and record.failure) or f"the supervisor ended. {_tail(log_path)}")
        if record:
            on_change(record)
        time.sleep(_POLL_S)
    process.terminate()
    raise StartError(f"the stack was not ready within {_START_WITHIN_S:g} s. {_tail(log_path)}")


def stop_detached(record: RunRecord, *, wait_s: float) -> tuple[str, ...]:
    """Stop the supervisor, then whatever of its processes outlived it; return the names of those.

    Nothing is signalled that is not the very process the record names. Whoever does not end within `wait_s` is killed.
    """
    supervisor = same_process(record.pid, record.create_time_s)
    if supervisor:
        supervisor.terminate()
        _, alive = psutil.wait_procs([supervisor], timeout=wait_s)
        for process in alive:
            process.kill()
    orphans = {
        entry.name: process
        for entry in reversed(record.processes)
        if (process := same_process(entry.pid, entry.create_time_s))
    }
    for process in orphans.values():
        process.terminate()
    _, alive = psutil.wait_procs(list(orphans.values()), timeout=wait_s)
    for process in alive:
        process.kill()
    return tuple(orphans)


def _tail(path: Path) -> str:
    try:
        text = path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    except OSError as error:
        text = f"({error.strerror})"
    return f"End of {path}:\n{text}"

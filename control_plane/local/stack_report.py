"""What `inferlane status` says of a running stack. It imports little: the command should be there at once."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from control_plane.local.readiness import failing_checks
from inferlane.errors import UnavailableError
from inferlane.runtime.runfile import ProcessRecord, RunRecord

_TRIED_BYTES = 64 * 1024
# What a run file and a log need to go on for a while.
_ENOUGH_BYTES = 16 * 1024 * 1024


def fault_lines(record: RunRecord) -> tuple[str, ...]:
    """Return a line for each version that is not served, with the reason."""
    return tuple(
        f"  not served {fault.model}{f' {fault.version}' if fault.version else ''}: {fault.reason}"
        for fault in record.faults
    )


async def readiness_of(record: RunRecord) -> list[str]:
    """`ready`, or why not, for each process of the record in its order."""
    return await asyncio.gather(*(_readiness(entry) for entry in record.processes))


async def _readiness(entry: ProcessRecord) -> str:
    # A program of others: the supervisor asks it in its own protocol.
    if entry.fault:
        return entry.state
    if not entry.ops_url:
        return entry.state
    try:
        failing = await failing_checks(entry.ops_url)
    except UnavailableError:
        return "no answer"
    return f"failing: {', '.join(failing)}" if failing else "ready"


def status_document(record: RunRecord, readiness: Sequence[str], *, folder: Path) -> dict[str, Any]:
    """Return the record for JSON, with the readiness of each process; without the environment, which has secrets.

    `readiness` is that of `readiness_of`; a fault of the state directory `folder` is one of the troubles.
    """
    fault = folder_fault(folder)
    troubles = (*record.troubles, *([f"state directory: {fault}"] if fault else []))
    document: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(record, troubles=troubles))
    del document["environment"]
    for process, ready in zip(document["processes"], readiness, strict=True):
        process["readiness"] = ready
    return document


def folder_fault(folder: Path) -> str | None:
    """Return why the state directory cannot be written, or that it is almost full; None if all is well."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror}): what the run file and the logs say may be old"
    if free_bytes < _ENOUGH_BYTES:
        return f"{folder} has {free_bytes / 2**20:.1f} MiB left, logs and the run file want {_ENOUGH_BYTES / 2**20:.0f}"
    return None

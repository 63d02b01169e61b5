"""What `up` and `status` tell about a stack, in words."""

import asyncio

from control_plane.local.pools import DASHBOARD
from control_plane.local.probe import failing_checks
from inferlane.errors import UnavailableError
from inferlane.runtime.runfile import ProcessRecord, RunRecord


def ready_lines(record: RunRecord) -> tuple[str, ...]:
    """Where everything is."""
    embedded = [entry.name for entry in record.processes if not entry.ops_url]
    ops = (f"{entry.name} :{entry.port}" for entry in record.processes if entry.ops_url not in {"", record.api_url})
    pages = (f"  live     {entry.ops_url}" for entry in record.processes if entry.pool == DASHBOARD)
    lines = (
        *_headline(record),
        *pages,
        f"  API      {record.api_url}",
        f"  docs     {record.api_url}/docs",
        f"  metrics  {record.api_url}/metrics, and /metrics of {', '.join(ops)}",
    )
    if not embedded:
        return lines
    return (*lines, f"  The embedded {' and '.join(embedded)} keep everything in memory: stopped, they forget.")


def fault_lines(record: RunRecord) -> tuple[str, ...]:
    """What is not served and why."""
    return tuple(
        f"  not served {fault.model}{f' {fault.version}' if fault.version else ''}: {fault.reason}"
        for fault in record.faults
    )


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
    """What a stack that starts waits for."""
    waiting = [f"{entry.name} ({entry.state})" for entry in record.processes if entry.state != "ready"]
    return ", ".join(waiting) or "probing each model version"


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

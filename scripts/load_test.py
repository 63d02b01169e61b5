"""Load test: sends predictions to a running Inferlane server, closed or open loop, and reports every outcome.

python scripts/load_test.py --concurrency 64 --requests 10000
python scripts/load_test.py --mode open --rate 1000 --duration 10 --json results.json
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from _environment import USAGE_ERROR, require_packages

require_packages("aiohttp", "msgspec", "numpy", "rich", "uvloop")

# The imports below need the packages that the call above provides, hence E402.
import uvloop  # noqa: E402
from _traffic.api import ANSWER_GRACE_S, Api, ApiError  # noqa: E402
from _traffic.arrivals import ClosedLimit, OpenSchedule, send_closed, send_open  # noqa: E402
from _traffic.consistency import Consistency  # noqa: E402
from _traffic.options import MOST_REQUESTS, URL_VARIABLE, Options, parse_options  # noqa: E402
from _traffic.report import Report, live_progress, make_console, write_json  # noqa: E402
from _traffic.sender import Sender  # noqa: E402
from _traffic.statistics import Tally  # noqa: E402
from _traffic.workload import Target, Workload  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Coroutine

FAILED = 1


class UsageError(Exception):
    """The command line names something that the server does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run leaves behind."""

    tally: Tally
    consistency: Consistency | None
    elapsed_s: float
    interrupted: bool
    model: str


async def make_workload(api: Api, options: Options) -> Workload:
    """Ask the server what it serves and prepare bodies that fit.

    Raises:
        UsageError: the model or the version is not served.
        ApiError: the server did not answer.
    """
    served = await api.models()
    model = served.named(options.model)
    if model is None or not model.versions:
        known = ", ".join(model.name for model in served.models) or "none"
        raise UsageError(f"--model {options.model or '(default)'} is not served; served models: {known}")
    for version in [*([options.version] if options.version else []), *(options.split or {})]:
        if version not in model.version_names:
            raise UsageError(f"{model.name} has no version {version}; it has: {', '.join(model.version_names)}")
    asked = next((version for version in model.versions if version.version == options.version), model.versions[0])
    return Workload(
        Target(model=model.name, version=options.version, timeout_s=options.timeout_s),
        features=asked.features,
        rows=options.rows,
        routing_keys=options.routing_keys,
        seed=options.seed,
    )


async def finish_or_stop(work: Coroutine[object, object, None]) -> bool:
    """Run the work and return whether SIGINT or SIGTERM cut it short; what was counted until then stays counted."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await asyncio.wait([task])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if task.cancelled():
        return True
    task.result()
    return False


async def send_all(options: Options, sender: Sender, tally: Tally) -> None:
    arrivals = options.arrivals
    if isinstance(arrivals, OpenSchedule):
        async with live_progress(tally, total=arrivals.count):
            await send_open(arrivals, sender, max_outstanding=options.max_outstanding, on_overflow=tally.count_overflow)
    else:
        async with live_progress(tally, total=arrivals.requests):
            await send_closed(arrivals, sender)


async def run_load(options: Options) -> Run:
    """Prepare, send everything, and return the counts.

    Raises:
        UsageError: the model or the version is not served.
        ApiError: the server did not answer before the run began.
    """
    arrivals = options.arrivals
    # Not fewer than may be under way: a request that waits for a connection would wait inside the client.
    connections = arrivals.concurrency if isinstance(arrivals, ClosedLimit) else options.max_outstanding
    async with Api(options.url, connections=connections, timeout_s=options.timeout_s + ANSWER_GRACE_S) as api:
        workload = await make_workload(api, options)
        if options.split is not None:
            await api.set_split(workload.target.model, options.split)
        consistency = (
            Consistency(rows=options.rows, version=options.version, tolerance=options.check_tolerance)
            if options.check
            else None
        )
        tally = Tally()
        start_s = time.perf_counter()
        interrupted = await finish_or_stop(send_all(options, Sender(api, workload, tally, consistency), tally))
        return Run(
            tally=tally,
            consistency=consistency,
            elapsed_s=time.perf_counter() - start_s,
            interrupted=interrupted,
            model=workload.target.model,
        )


def describe(options: Options, run: Run) -> dict[str, object]:
    """Return what was asked for, for the JSON file."""
    arrivals = options.arrivals
    return {
        "url": options.url,
        "mode": "closed" if isinstance(arrivals, ClosedLimit) else "open",
        "arrivals": arrivals,
        "max_outstanding": None if isinstance(arrivals, ClosedLimit) else options.max_outstanding,
        "model": run.model,
        "version": options.version,
        "rows": options.rows,
        "routing_keys": options.routing_keys,
        "split": options.split,
        "timeout_s": options.timeout_s,
        "seed": options.seed,
        "interrupted": run.interrupted,
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_notes(options: Options, run: Run) -> list[str]:
    """Return what a reader must know to read the numbers right."""
    arrivals = options.arrivals
    notes = []
    if run.interrupted:
        notes.append("Interrupted: these are the results so far.")
    elif isinstance(arrivals, ClosedLimit) and run.tally.sent < arrivals.requests < MOST_REQUESTS:
        notes.append(f"Stopped after {arrivals.duration_s:g} s, before {arrivals.requests:,} requests were sent.")
    if run.tally.overflow:
        notes.append(
            f"{run.tally.overflow:,} requests were not sent because {options.max_outstanding} others had no answer: "
            "the server does not keep up with this rate, and the percentiles above flatter it."
        )
    return notes


def main() -> int:
    options = parse_options(sys.argv[1:], environment_url=os.environ.get(URL_VARIABLE))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            run = runner.run(run_load(options))
    except UsageError as error:
        print(f"load_test: {error}", file=sys.stderr)
        return USAGE_ERROR
    except ApiError as error:
        print(f"load_test: {error}", file=sys.stderr)
        return FAILED
    summary = run.tally.summarize(elapsed_s=run.elapsed_s)
    Report(make_console(), is_open=isinstance(options.arrivals, OpenSchedule)).show(
        summary, run.consistency, write_notes(options, run)
    )
    if options.json_file is not None:
        write_json(options.json_file, describe(options, run), summary, run.consistency)
    contradicted = run.consistency is not None and run.consistency.violations > 0
    return FAILED if run.interrupted or contradicted or not summary.all_succeeded else 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        sys.exit(main())
    sys.exit(FAILED)

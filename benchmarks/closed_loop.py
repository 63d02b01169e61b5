"""Windows of a closed loop on one running system."""

import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.figures import Window
from benchmarks.measured import Checked, Closed
from benchmarks.probing import Probe
from benchmarks.stalls import StallGauge
from benchmarks.systems.running import Running
from benchmarks.usage import usage_of
from benchmarks.wrk import run_wrk

_WINDOW_S = 1
_WARM_UP_CONCURRENCY = 64
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Windows of one second at each concurrency; the first `warm_up` of each are thrown away."""

    concurrencies: tuple[int, ...]
    windows: int
    warm_up: int = 1


def measure_closed(running: Running, case: Case, plan: Plan, *, number: int) -> Closed:
    """Load the system as planned, once it is warm; `number` is the round, for the windows."""
    windows: dict[int, list[Window]] = {}
    probe = Probe(running, case)
    with tempfile.TemporaryDirectory() as folder, StallGauge() as gauge:
        body = Path(folder) / "body.json"
        body.write_bytes(running.body(case.rows[0]))
        if running.warm_up_s:
            run_wrk(running.url, body, concurrency=_WARM_UP_CONCURRENCY, seconds=running.warm_up_s)
        for concurrency in plan.concurrencies:
            taken = []
            for _ in range(plan.warm_up + plan.windows):
                # One request under way is one: beside it, the probe would be a second.
                with probe.asking() if concurrency > 1 else nullcontext():
                    taken.append(_window(running, body, gauge, concurrency=concurrency, number=number))
                probe.ask()
            windows[concurrency] = taken[plan.warm_up :]
    checked = Checked(equal=probe.equal, unequal=probe.unequal, failed=probe.failed)
    return Closed(windows=windows, checked=checked)


def _window(running: Running, body: Path, gauge: StallGauge, *, concurrency: int, number: int) -> Window:
    own = usage_of(running.own_pids, without=running.parts_pids)
    parts = usage_of(running.parts_pids)
    stalled_s, started_s = gauge.stalled_s, time.perf_counter()
    result = run_wrk(running.url, body, concurrency=concurrency, seconds=_WINDOW_S)
    around_s = time.perf_counter() - started_s
    own_after = usage_of(running.own_pids, without=running.parts_pids)
    parts_after = usage_of(running.parts_pids)
    elapsed_s = result.duration_us / 1e6
    return Window(
        round=number,
        elapsed_s=elapsed_s,
        # wrk's own time is a little shorter than the time around it, in which the stalls were counted.
        available=max(0.0, 1.0 - (gauge.stalled_s - stalled_s) / around_s),
        answered=result.answered,
        errors=result.errors,
        p50_ms=result.p50_us / 1000,
        p99_ms=result.p99_us / 1000,
        own_cpu_s=own_after.cpu_s - own.cpu_s,
        parts_cpu_s=parts_after.cpu_s - parts.cpu_s,
        rss_mib=own_after.rss_bytes / _MIB,
    )

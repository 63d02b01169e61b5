"""Where the time of one request goes: latency by hop from the answers' own timings, CPU by process, CPU by step."""

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.cases import Case
from benchmarks.figures import per_thousand
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.stalls import StallGauge
from benchmarks.steps import Step, time_steps
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.running import Running, post
from benchmarks.usage import cpu_by_process
from benchmarks.wrk import run_wrk

_SAMPLES = 200
# About what a worker finds waiting at concurrency 64.
_BATCH = 16


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in milliseconds of answers that were asked beside the load, and their parts."""

    total_ms: float
    until_infer_ms: float
    infer_ms: float
    after_ms: float
    samples: int


class Hops(msgspec.Struct, frozen=True, kw_only=True):
    """`cpu_s_per_1000` is by process, under the load of `concurrency`."""

    case: str
    machine: Machine
    concurrency: int
    answered: int
    available: float
    latency: Latency
    cpu_s_per_1000: dict[str, float]
    steps: tuple[Step, ...]


def measure_hops(case: Case, *, concurrency: int, seconds: int) -> Hops:
    """Load the embedded stack for so long and split what it spends."""
    with serve_inferlane(case) as running, StallGauge() as gauge, tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.json"
        body.write_bytes(running.body(case.rows[0]))
        run_wrk(running.url, body, concurrency=concurrency, seconds=1)
        before, stalled_s, started_s = cpu_by_process(running.processes), gauge.stalled_s, time.perf_counter()
        with ThreadPoolExecutor(1) as beside:
            sampling = beside.submit(_sample, running, case, until_s=started_s + seconds)
            result = run_wrk(running.url, body, concurrency=concurrency, seconds=seconds)
            latency = sampling.result()
        available = 1.0 - (gauge.stalled_s - stalled_s) / (time.perf_counter() - started_s)
        after = cpu_by_process(running.processes)
    answered = result.answered + latency.samples
    return Hops(
        case=case.name,
        machine=this_machine(),
        concurrency=concurrency,
        answered=answered,
        available=available,
        latency=latency,
        cpu_s_per_1000={name: per_thousand(after[name] - before[name], answered) for name in before},
        steps=time_steps(case, batch=_BATCH),
    )


def _sample(running: Running, case: Case, *, until_s: float) -> Latency:
    """Ask beside the load and read the timings of the answers.

    The time until inference spans parse, produce, broker, route, broker and the wait in the worker; the time after it
    store, wake-up and respond.
    """
    parts: list[tuple[float, float, float]] = []
    while time.perf_counter() < until_s and len(parts) < _SAMPLES:
        started_s = time.perf_counter()
        timings = post(running.url, running.body(case.rows[0]))["timings_ms"]
        total_ms = (time.perf_counter() - started_s) * 1000
        parts.append((total_ms, timings["queue_wait"], timings["inference"]))
    total_ms, until_ms, infer_ms = (statistics.median(part) for part in zip(*parts, strict=True))
    after_ms = statistics.median(total - until - infer for total, until, infer in parts)
    return Latency(total_ms=total_ms, until_infer_ms=until_ms, infer_ms=infer_ms, after_ms=after_ms, samples=len(parts))


def hops_to_markdown(hops: Hops) -> str:
    """Three tables: latency, CPU by process, CPU by step."""
    latency = hops.latency
    lines = [
        f"## Where the time goes: {hops.case}, concurrency {hops.concurrency}",
        "",
        f"{hops.answered:,} answers; the machine ran {hops.available:.0%} of the time; {hops.machine.measured_at}.",
        "",
        f"| part of the latency | median ms of {latency.samples} answers |",
        "|---|---:|",
        f"| parse, produce, broker, route, broker, queue wait | {latency.until_infer_ms:.2f} |",
        f"| batch, infer | {latency.infer_ms:.2f} |",
        f"| store, wake-up, respond, and the client | {latency.after_ms:.2f} |",
        f"| whole | {latency.total_ms:.2f} |",
        "",
        "| process | CPU-s for 1,000 requests |",
        "|---|---:|",
        *(f"| {name} | {cost:.3f} |" for name, cost in hops.cpu_s_per_1000.items()),
        "",
        "| hop | pure step | CPU µs for one request |",
        "|---|---|---:|",
        *(f"| {step.hop} | {step.step} | {step.cpu_us:.1f} |" for step in hops.steps),
    ]
    return "\n".join(lines) + "\n"

"""Where the time of one request goes: latency by hop from traces, CPU by process, CPU by step."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.cases import Case
from benchmarks.figures import per_thousand
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.milestones import ENVIRONMENT, Latency, ask_beside, split_latency
from benchmarks.stalls import StallGauge
from benchmarks.steps import Step, time_steps
from benchmarks.systems.inferlane import serve_inferlane, serve_inferlane_on_apache
from benchmarks.usage import cpu_by_process
from benchmarks.wrk import run_wrk
from tests.support.brokers.kinds import BrokerKind
from tests.support.collector import collecting

_SAMPLES = 200
# About what a worker finds waiting at concurrency 64.
_BATCH = 16


class Hops(msgspec.Struct, frozen=True, kw_only=True):
    """`cpu_s_per_1000` is by process, under the load of `concurrency`."""

    case: str
    machine: Machine
    broker: str
    concurrency: int
    answered: int
    available: float
    latency: Latency
    cpu_s_per_1000: dict[str, float]
    steps: tuple[Step, ...]


_SERVE = {BrokerKind.EMBEDDED: serve_inferlane, BrokerKind.APACHE: serve_inferlane_on_apache}


def measure_hops(case: Case, broker: BrokerKind, *, concurrency: int, seconds: int) -> Hops:
    """Load the stack for so long and split what it spends.

    CPU is measured on a stack without traces, latency on a second one that traces what is asked beside the load.
    """
    serve = _SERVE[broker]
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.json"
        with serve(case) as running, StallGauge() as gauge:
            body.write_bytes(running.body(case.rows[0]))
            run_wrk(running.url, body, concurrency=concurrency, seconds=1)
            before, stalled_s, started_s = cpu_by_process(running.processes), gauge.stalled_s, time.perf_counter()
            result = run_wrk(running.url, body, concurrency=concurrency, seconds=seconds)
            available = 1.0 - (gauge.stalled_s - stalled_s) / (time.perf_counter() - started_s)
            after = cpu_by_process(running.processes)
        with collecting() as (collector, endpoint):
            traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **ENVIRONMENT}
            with serve(case, environment=traced) as running, ThreadPoolExecutor(1) as beside:
                run_wrk(running.url, body, concurrency=concurrency, seconds=1)
                until_s = time.perf_counter() + seconds
                # What is asked beside the load is one of those under way; alone, it is the load.
                sampling = beside.submit(ask_beside, running, case, until_s=until_s, at_most=_SAMPLES)
                if concurrency > 1:
                    run_wrk(running.url, body, concurrency=concurrency - 1, seconds=seconds)
                asked = sampling.result()
            # The last spans were sent when the stack ended.
            latency = split_latency(asked, collector)
    return Hops(
        case=case.name,
        machine=this_machine(),
        broker=broker,
        concurrency=concurrency,
        answered=result.answered,
        available=available,
        latency=latency,
        cpu_s_per_1000={name: per_thousand(after[name] - before[name], result.answered) for name in before},
        steps=time_steps(case, batch=_BATCH),
    )


def hops_to_markdown(hops: Hops) -> str:
    """Three tables: latency, CPU by process, CPU by step."""
    latency = hops.latency
    lines = [
        f"## Where the time goes: {hops.case}, concurrency {hops.concurrency}, {hops.broker} broker",
        "",
        f"{hops.answered:,} answers; the machine ran {hops.available:.0%} of the time; {hops.machine.measured_at}.",
        "",
        f"| hop | median ms of {latency.samples} requests |",
        "|---|---:|",
        *(f"| {hop} | {duration_ms:.2f} |" for hop, duration_ms in latency.hops_ms.items()),
        f"| whole | {latency.whole_ms:.2f} |",
        f"| of it in the router, until acknowledged | {latency.router_ms or 0.0:.2f} |",
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

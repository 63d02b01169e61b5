"""How the rate grows with processes: one router, one API and two workers on Apache Kafka, and twice as many of each."""

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.cases import Case
from benchmarks.figures import per_thousand
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.stalls import StallGauge
from benchmarks.systems.deployed import SERVING, by_kind
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.running import Running, answers_get, process, wait_ready
from benchmarks.usage import cpu_by_process
from benchmarks.venvs import STATE
from benchmarks.wrk import run_wrk
from inferlane.runtime.runfile import RunFile
from tests.support.brokers import make_broker
from tests.support.brokers.kinds import BrokerKind
from tests.support.brokers.processes import free_ports

_READY_WITHIN_S = 120.0
_WARM_UP_S = 3
# Beside those that serve: broker, store and the load generator.
_OTHERS = 3
# As a deployment has it.
_SESSION_TIMEOUT_MS = 30_000


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes of each kind serve."""

    routers: int
    apis: int
    workers: int

    @property
    def processes(self) -> int:
        """How many serve, of all kinds."""
        return self.routers + self.apis + self.workers

    def __str__(self) -> str:
        return f"{self.routers} / {self.apis} / {self.workers}"


SMALL = Shape(routers=1, apis=1, workers=2)
LARGE = Shape(routers=2, apis=2, workers=4)


class LoadSpell(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a shape under load: `answered` in `seconds`, and the CPU of each kind of process."""

    shape: Shape
    concurrency: int
    seconds: float
    answered: int
    errors: int
    p99_ms: float
    cpu_s: dict[str, float]
    available: float

    @property
    def rate_per_s(self) -> float:
        """Answers a second in which the machine ran."""
        return self.answered / (self.seconds * self.available)

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds of all that serve, for 1,000 answers."""
        return per_thousand(sum(self.cpu_s[kind] for kind in SERVING), self.answered)


class ScaleOut(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of both shapes, in turns."""

    case: str
    machine: Machine
    small: list[LoadSpell]
    large: list[LoadSpell]

    @property
    def efficiency(self) -> float:
        """The rate of twice the processes by twice the rate: 1 is perfect, 0.5 means that they answer no more."""
        return _median_rate(self.large) / (2 * _median_rate(self.small))

    @property
    def cost_ratio(self) -> float:
        """CPU of an answer by the small shape, divided by that of the large one: the most that `efficiency` can be."""
        small, large = (
            statistics.median(spell.cpu_s_per_1000 for spell in spells) for spells in (self.small, self.large)
        )
        return small / large


def _median_rate(spells: list[LoadSpell]) -> float:
    return statistics.median(spell.rate_per_s for spell in spells)


def cores_needed() -> int:
    """A core for each process of the larger shape, and for broker, store and load."""
    return LARGE.processes + _OTHERS


def verdict(scale: ScaleOut) -> str:
    """What the figures are worth on that machine."""
    cores, needed = scale.machine.cores, cores_needed()
    if cores >= needed:
        return f"{cores} cores for {needed} processes: each has one, so the efficiency is that of the system."
    return (
        f"**{cores} cores for {needed} processes**: they take the cores from each other, so the efficiency here says "
        "nothing of a larger machine. What this run does tell is the CPU of an answer: more processes divide the same "
        "requests into smaller batches, and each batch has a fixed cost. Run it on a machine with at least "
        f"{needed} cores for the efficiency."
    )


def measure_scale_out(case: Case, *, concurrency: int, seconds: int, rounds: int) -> ScaleOut:
    """Load both shapes in turns; `concurrency` is that of each API process, so each has the same load in both."""
    found: dict[Shape, list[LoadSpell]] = {SMALL: [], LARGE: []}
    for number in range(rounds):
        for shape in (SMALL, LARGE) if number % 2 == 0 else (LARGE, SMALL):
            with _serve(case, shape) as running:
                found[shape].append(_load(running, case, shape, concurrency=concurrency, seconds=seconds))
    return ScaleOut(case=case.name, machine=this_machine(), small=found[SMALL], large=found[LARGE])


def _load(running: Running, case: Case, shape: Shape, *, concurrency: int, seconds: int) -> LoadSpell:
    connections = concurrency * shape.apis
    with tempfile.TemporaryDirectory() as folder, StallGauge() as gauge:
        body = Path(folder) / "body.json"
        body.write_bytes(running.body(case.rows[0]))
        run_wrk(running.url, body, concurrency=connections, seconds=_WARM_UP_S)
        before, stalled_s = by_kind(cpu_by_process(running.processes)), gauge.stalled_s
        result = run_wrk(running.url, body, concurrency=connections, seconds=seconds)
        after = by_kind(cpu_by_process(running.processes))
        elapsed_s = result.duration_us / 1e6
        available = max(0.01, 1.0 - (gauge.stalled_s - stalled_s) / elapsed_s)
    return LoadSpell(
        shape=shape,
        concurrency=connections,
        seconds=elapsed_s,
        answered=result.answered,
        errors=result.errors,
        p99_ms=result.p99_us / 1000,
        cpu_s={kind: after[kind] - before[kind] for kind in before},
        available=available,
    )


@contextmanager
def _serve(case: Case, shape: Shape) -> Iterator[Running]:
    """The stack with that many APIs and workers, and routers beside the one that it starts itself."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(make_broker(BrokerKind.APACHE, folder))
        environment = broker.environment(
            session_timeout_ms=_SESSION_TIMEOUT_MS, workers=shape.workers, api_processes=shape.apis
        )
        running = stack.enter_context(serve_inferlane(case, environment=environment))
        routers = {
            f"router-{number}": stack.enter_context(_router(case, environment, folder / f"router-{number}.log"))
            for number in range(2, shape.routers + 1)
        }
        yield replace(running, processes={**running.processes, **routers})


@contextmanager
def _router(case: Case, environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """One more router of the running stack: its pid."""
    record = RunFile(STATE.absolute() / "stack").read()
    store_port = next(entry.port for entry in record.processes if entry.name == "store") if record else 0
    (ops_port,) = free_ports(1)
    own = {name: value for name, value in os.environ.items() if not name.startswith("INFERLANE_")} | {
        **environment,
        "INFERLANE_REDIS_URL": f"redis://127.0.0.1:{store_port}/0",
        "INFERLANE_MODELS_DIR": str(case.models_dir.absolute()),
        "INFERLANE_DEFAULT_MODEL": case.model,
        "INFERLANE_LOG_LEVEL": "WARNING",
        "INFERLANE_OPS_PORT": str(ops_port),
    }
    argv = [str(Path(sys.executable).parent / "inferlane"), "router"]
    with process(argv, log=log, env=own) as child:
        url = f"http://127.0.0.1:{ops_port}/readyz"
        wait_ready(
            lambda: answers_get(url), within_s=_READY_WITHIN_S, what="the second router", logs=[log], processes=[child]
        )
        yield child.pid


def scale_out_to_markdown(scale: ScaleOut) -> str:
    """One table: a row a shape; then the efficiency, and what it is worth."""
    lines = [
        f"## Twice the processes: {scale.case} on Apache Kafka",
        "",
        (
            f"{scale.machine.measured_at}, {scale.machine.cpu}, {scale.machine.cores} cores. "
            f"Medians of {len(scale.small)} runs each, in turns."
        ),
        "",
        "| routers / APIs / workers | connections | answers/s | p99 ms | errors | CPU-s for 1,000 | available |",
        "|---|" + "---:|" * 6,
        *(_row(spells) for spells in (scale.small, scale.large)),
        "",
        (
            f"Efficiency: **{scale.efficiency:.2f}**, the rate of the second row by twice that of the first. "
            f"By the CPU of an answer it is at most {scale.cost_ratio:.2f}."
        ),
        "",
        verdict(scale),
    ]
    return "\n".join(lines) + "\n"


def _row(spells: list[LoadSpell]) -> str:
    cells = (
        str(spells[0].shape),
        str(spells[0].concurrency),
        f"{_median_rate(spells):,.0f}",
        f"{statistics.median(spell.p99_ms for spell in spells):,.0f}",
        f"{sum(spell.errors for spell in spells):,}",
        f"{statistics.median(spell.cpu_s_per_1000 for spell in spells):.3f}",
        f"{statistics.median(spell.available for spell in spells):.0%}",
    )
    return "| " + " | ".join(cells) + " |"

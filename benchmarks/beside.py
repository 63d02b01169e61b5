"""A bulk job beside a client: what each of them loses by the other."""

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.burst import Burst, send_burst
from benchmarks.cases import Case
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.submit import Submission, submit, write_files
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.running import Running

CLIENT, BULK, BOTH = "client alone", "bulk alone", "both"
_PATIENCE_S = 30.0
_KIND = "parquet"


class Spell(msgspec.Struct, frozen=True, kw_only=True):
    """One way in one round: the latency of the client where it asks, the rate of the job where it runs."""

    way: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    asked: int = 0
    answered: int = 0
    rows_per_s: float | None = None
    available: float


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `python -m benchmarks beside` found."""

    case: str
    rate_per_s: float
    rows: int
    machine: Machine
    runs: tuple[Spell, ...]

    def median(self, way: str, figure: Callable[[Spell], float | None]) -> float:
        """The median of a figure over the rounds of a way."""
        found = (figure(run) for run in self.runs if run.way == way)
        return statistics.median(value for value in found if value is not None)

    @property
    def p99_factor(self) -> float:
        """How much longer the client's p99 is beside the job."""
        return self.median(BOTH, lambda run: run.p99_ms) / self.median(CLIENT, lambda run: run.p99_ms)

    @property
    def bulk_share(self) -> float:
        """Which part of its rate the job keeps beside the client."""
        return self.median(BOTH, lambda run: run.rows_per_s) / self.median(BULK, lambda run: run.rows_per_s)


def measure_beside(case: Case, *, rate_per_s: float, rows: int, rounds: int) -> Beside:
    """In each round a job alone, a client alone for as long, and both at once; each round on a stack of its own."""
    runs: list[Spell] = []
    with tempfile.TemporaryDirectory() as name:
        file = write_files(case, Path(name), rows=rows, kinds=(_KIND,))[_KIND]
        for number in range(rounds):
            with serve_inferlane(case) as running:
                runs += _round(running, case, file, Path(name) / "results.jsonl", rate_per_s, is_odd=number % 2 == 1)
    return Beside(case=case.name, rate_per_s=rate_per_s, rows=rows, machine=this_machine(), runs=tuple(runs))


def _round(running: Running, case: Case, file: Path, out: Path, rate_per_s: float, *, is_odd: bool) -> list[Spell]:
    # The first request of a stack and its first job load what later ones find loaded.
    asyncio.run(send_burst(running, case, rate_per_s=rate_per_s, duration_s=1, patience_s=_PATIENCE_S))
    job = submit(running, file, out, case=case)

    def ask() -> Burst:
        burst = send_burst(running, case, rate_per_s=rate_per_s, duration_s=job.elapsed_s, patience_s=_PATIENCE_S)
        return asyncio.run(burst)

    def alone() -> Spell:
        return _spell(CLIENT, ask(), None)

    def both() -> Spell:
        with ThreadPoolExecutor(max_workers=1) as thread:
            beside = thread.submit(submit, running, file, out, case=case)
            asked = ask()
            return _spell(BOTH, asked, beside.result())

    ways = (both, alone) if is_odd else (alone, both)
    return [_spell(BULK, None, job), *(way() for way in ways)]


def _spell(way: str, asked: Burst | None, job: Submission | None) -> Spell:
    available = [one.available for one in (asked, job) if one is not None]
    return Spell(
        way=way,
        p50_ms=asked.p50_ms if asked else None,
        p99_ms=asked.p99_ms if asked else None,
        asked=asked.sent if asked else 0,
        answered=asked.answered if asked else 0,
        rows_per_s=job.per_s if job else None,
        available=min(available),
    )


def beside_to_markdown(found: Beside) -> str:
    """One table of medians."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Beside) -> Iterator[str]:
    machine = found.machine
    yield f"## A client at {found.rate_per_s:g} requests/s beside a job of {found.rows:,} rows: {found.case}"
    yield ""
    yield f"{machine.cpu}, {machine.cores} cores, embedded broker, one worker; {machine.measured_at}. Medians."
    yield ""
    yield "| way | client p50 ms | client p99 ms | answered | rows/s | rounds | available |"
    yield "|---|" + "---:|" * 6
    for way in (CLIENT, BULK, BOTH):
        runs = [run for run in found.runs if run.way == way]
        asked = sum(run.asked for run in runs)
        cells = (
            way,
            f"{found.median(way, lambda run: run.p50_ms):.1f}" if asked else "",
            f"{found.median(way, lambda run: run.p99_ms):.1f}" if asked else "",
            f"{sum(run.answered for run in runs):,} of {asked:,}" if asked else "",
            "" if way == CLIENT else f"{found.median(way, lambda run: run.rows_per_s):,.0f}",
            str(len(runs)),
            f"{statistics.median(run.available for run in runs):.0%}",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"p99 of the client {found.p99_factor:.1f}x, rate of the job {found.bulk_share:.0%}."

"""Two checkouts side by side on one machine: CPU of each process for 1,000 requests, in many short alternating pairs.

On a machine that others use too, rates say little, and CPU seconds of one run are off by a tenth. The ratio of two
windows that follow each other is not: its median over many pairs tells 2 % apart.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.cases import Case
from benchmarks.figures import per_thousand, spread_of
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.running import Running
from benchmarks.usage import cpu_by_process
from benchmarks.wrk import run_wrk

_WARM_UP_S = 3
_WHOLE = "all"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One window of one checkout: what was answered, and the CPU seconds of each process."""

    answered: int
    p50_us: int
    cpu_s: dict[str, float]

    def per_1000(self, name: str) -> float:
        """CPU seconds of that process for 1,000 answers."""
        spent_s = sum(self.cpu_s.values()) if name == _WHOLE else self.cpu_s[name]
        return per_thousand(spent_s, self.answered)


class Pairs(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of both checkouts, in the order in which they were measured."""

    case: str
    machine: Machine
    concurrency: int
    ours: list[Side]
    theirs: list[Side]


def measure_pairs(case: Case, other: Path, *, concurrency: int, seconds: int, pairs: int) -> Pairs:
    """Run this checkout's stack and that of `other` at once, and load them in turn.

    `other` is a clone or worktree with a `.venv` of its own.
    """
    sides: tuple[list[Side], list[Side]] = ([], [])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running = (
            stack.enter_context(serve_inferlane(case)),
            stack.enter_context(serve_inferlane(case, checkout=other.absolute())),
        )
        body = Path(folder) / "body.json"
        body.write_bytes(running[0].body(case.rows[0]))
        for one in running:
            run_wrk(one.url, body, concurrency=concurrency, seconds=_WARM_UP_S)
        for number in range(pairs):
            # Whoever is second finds the machine warm, or busy: neither is that twice in a row.
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                sides[which].append(window_of(running[which], body, concurrency=concurrency, seconds=seconds))
    return Pairs(case=case.name, machine=this_machine(), concurrency=concurrency, ours=sides[0], theirs=sides[1])


def window_of(running: Running, body: Path, *, concurrency: int, seconds: int) -> Side:
    """Load a stack for so long, and read what each process spent on it."""
    before = cpu_by_process(running.processes)
    result = run_wrk(running.url, body, concurrency=concurrency, seconds=seconds)
    after = cpu_by_process(running.processes)
    spent: Mapping[str, float] = {name: after[name] - before[name] for name in before}
    return Side(answered=result.answered, p50_us=result.p50_us, cpu_s=dict(spent))


def pairs_to_markdown(pairs: Pairs) -> str:
    """One table: a row a process, the medians of both sides, and the median of the ratios of the pairs."""
    names = [*pairs.ours[0].cpu_s, _WHOLE]
    lines = [
        f"## CPU of two checkouts: {pairs.case}, concurrency {pairs.concurrency}, {len(pairs.ours)} pairs",
        "",
        f"{pairs.machine.measured_at}. Ratios are this one by the other; the spread is that of the ratios' quartiles.",
        "",
        "| process | CPU-s for 1,000, this | the other | ratio | spread |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in names:
        ours = [side.per_1000(name) for side in pairs.ours]
        theirs = [side.per_1000(name) for side in pairs.theirs if name in side.cpu_s or name == _WHOLE]
        if not theirs:
            continue
        lines.append(f"| {name} | {_row(ours, theirs)} |")
    rates = ([float(side.answered) for side in pairs.ours], [float(side.answered) for side in pairs.theirs])
    lines.append(f"| answers in a window | {_row(*rates, digits=0)} |")
    return "\n".join(lines) + "\n"


def _row(ours: Sequence[float], theirs: Sequence[float], *, digits: int = 4) -> str:
    ratios = [our / their for our, their in zip(ours, theirs, strict=True) if their]
    ratio = f"{statistics.median(ratios):.3f} | {spread_of(ratios):.1%}" if ratios else " | "
    return f"{statistics.median(ours):,.{digits}f} | {statistics.median(theirs):,.{digits}f} | {ratio}"

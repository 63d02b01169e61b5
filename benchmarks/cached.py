"""What an answer of the response cache costs beside a computed one: CPU of every process, broker and store included."""

import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.cases import Case
from benchmarks.figures import per_thousand
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.spells import Spell, SpellMeter
from benchmarks.systems.deployed import by_kind, serve_on
from benchmarks.wrk import run_wrk
from tests.support.brokers.kinds import BrokerKind

_WINDOW_S = 2
_WAYS = {"computed": "", "cached": "{model}=600"}


class CachedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A closed loop that sends one and the same request; `way` is whether its answer is kept."""

    way: str
    answered: int
    errors: int
    p50_ms: float
    spell: Spell


class CacheCost(msgspec.Struct, frozen=True, kw_only=True):
    """Windows of two stacks in turns."""

    case: str
    machine: Machine
    concurrency: int
    windows: list[CachedWindow]

    def per_1000(self, way: str) -> dict[str, float]:
        """CPU seconds for 1,000 answers by kind of process."""
        windows = [window for window in self.windows if window.way == way]
        spent: Counter[str] = Counter()
        for window in windows:
            spent.update(by_kind(window.spell.cpu_s))
        answered = sum(window.answered for window in windows)
        return {kind: per_thousand(cpu_s, answered) for kind, cpu_s in spent.items()}


def measure_cached(case: Case, *, concurrency: int, rounds: int) -> CacheCost:
    """Load a stack with a cache and one without in turns; the first window of each is thrown away."""
    windows = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        body = folder / "body.json"
        stacks = {
            way: stack.enter_context(
                serve_on(BrokerKind.EMBEDDED, case, folder / way, response_cache=setting.format(model=case.model))
            )
            for way, setting in _WAYS.items()
        }
        body.write_bytes(stacks["computed"].body(case.rows[0]))
        for number in range(rounds + 1):
            for way, running in sorted(stacks.items(), reverse=bool(number % 2)):
                with SpellMeter(running.processes) as meter:
                    result = run_wrk(running.url, body, concurrency=concurrency, seconds=_WINDOW_S)
                window = CachedWindow(
                    way=way,
                    answered=result.answered,
                    errors=result.errors,
                    p50_ms=result.p50_us / 1000,
                    spell=meter.spell,
                )
                windows += [window] if number else []
    return CacheCost(case=case.model, machine=this_machine(), concurrency=concurrency, windows=windows)


def cached_to_markdown(cost: CacheCost) -> str:
    """One table: a row a kind of process, and the sum."""
    computed, cached = (cost.per_1000(way) for way in _WAYS)
    rows = [(kind, computed[kind], cached[kind]) for kind in computed]
    rows.append(("together", sum(computed.values()), sum(cached.values())))
    p50 = {way: sorted(w.p50_ms for w in cost.windows if w.way == way)[len(cost.windows) // 4] for way in _WAYS}
    errors = sum(window.errors for window in cost.windows)
    lines = [
        f"## The response cache, {cost.case}, concurrency {cost.concurrency}",
        "",
        f"CPU seconds for 1,000 answers; {len(cost.windows) // 2} windows of {_WINDOW_S} s, in turns; {errors} errors.",
        f"p50 {p50['computed']:.1f} ms computed, {p50['cached']:.1f} ms cached. {cost.machine.measured_at}.",
        "",
        "| process | computed | cached | ratio |",
        "|---|---:|---:|---:|",
        *(f"| {kind} | {miss:.3f} | {hit:.3f} | {hit / miss if miss else 0:.2f} |" for kind, miss, hit in rows),
    ]
    return "\n".join(lines) + "\n"

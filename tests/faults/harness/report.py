"""What a run found: a table for people, JSON for machines."""

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.faults.harness.injecting import Injected
from tests.faults.harness.loading import Load
from tests.faults.harness.plan import Plan
from tests.faults.harness.verdict import Verdict

_SHOWN = 10


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run. `longest_stall_s`: the longest time without an answer while one was owed."""

    broker: str
    seed: int
    elapsed_s: float
    faults: dict[str, int]
    # Faults that hit while at least one accepted request had no answer.
    faults_in_flight: int
    requests: dict[str, int]
    statuses: dict[str, int]
    repeated_records: int
    repeated_bulk_results: int
    calls_unanswered: int
    calls_refused: dict[str, int]
    longest_stall_s: float
    # Of calls that waited and were answered 200, with the seconds of kills and freezes in them.
    wait_p50_s: float
    wait_p99_s: float
    lost: tuple[str, ...]
    wrong: tuple[str, ...]
    hanging: tuple[str, ...]
    contradicted: tuple[str, ...]
    repeats_differ: tuple[str, ...]
    forgotten: int

    @property
    def fault_count(self) -> int:
        """How many faults were done."""
        return sum(self.faults.values())

    @property
    def request_count(self) -> int:
        """How many requests were accepted."""
        return sum(self.requests.values())

    @property
    def holds(self) -> bool:
        """Whether every accepted id ended in exactly one right answer in time."""
        return not (self.lost or self.wrong or self.hanging or self.contradicted)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    def broken_promises(self) -> str:
        """The first of what went wrong, in words; empty when nothing did."""
        return "\n".join(
            line for name in ("lost", "wrong", "hanging", "contradicted") for line in _first(name, getattr(self, name))
        )

    def show(self, console: Console) -> None:
        """Print it."""
        table = Table("", "count", box=None, title=f"{self.broker} broker, seed {self.seed}, {self.elapsed_s:.0f} s")
        table.columns[1].justify = "right"
        table.add_row("[bold]faults", f"{self.fault_count:,}")
        for name, count in sorted(self.faults.items()):
            table.add_row(f"  {name}", f"{count:,}")
        table.add_row("  while requests were in flight", f"{self.faults_in_flight:,}")
        table.add_row("[bold]requests accepted", f"{self.request_count:,}")
        for name, count in [*sorted(self.requests.items()), *sorted(self.statuses.items())]:
            table.add_row(f"  {name}", f"{count:,}")
        table.add_row("records sent again under their id", f"{self.repeated_records:,}")
        table.add_row("bulk results that came again", f"{self.repeated_bulk_results:,}")
        table.add_row("HTTP calls without an answer", f"{self.calls_unanswered:,}")
        for status, count in sorted(self.calls_refused.items()):
            table.add_row(f"HTTP calls refused with {status}", f"{count:,}")
        table.add_row("longest stall", f"{self.longest_stall_s:.1f} s")
        table.add_row("a call that waits, p50", f"{self.wait_p50_s * 1000:.0f} ms")
        table.add_row("a call that waits, p99", f"{self.wait_p99_s * 1000:.0f} ms")
        table.add_row("forgotten with the store", f"{self.forgotten:,}")
        for name in ("lost", "wrong", "hanging", "contradicted", "repeats_differ"):
            table.add_row(f"[bold]{name.replace('_', ' ')}", f"{len(getattr(self, name)):,}")
        console.print(table)
        for name in ("lost", "wrong", "hanging", "contradicted", "repeats_differ"):
            for line in _first(name, getattr(self, name)):
                console.print(line, markup=False, soft_wrap=True)


def make_report(
    plan: Plan, broker: str, *, elapsed_s: float, faults: list[Injected], load: Load, verdict: Verdict
) -> Report:
    """Put the figures together."""
    accepted = list(load.ledger.accepted())
    waits_s = load.http.waits_s or [0.0]
    return Report(
        broker=broker,
        seed=plan.seed,
        elapsed_s=round(elapsed_s, 1),
        faults={str(fault): count for fault, count in Counter(one.fault for one in faults).items()},
        faults_in_flight=sum(1 for one in faults if one.pending),
        requests={str(way): count for way, count in load.counts().items()},
        statuses=dict(Counter(str(entry.answer.status) for entry in accepted if entry.answer)),
        repeated_records=load.topics.repeated,
        repeated_bulk_results=sum(max(0, entry.answers - 1) for entry in accepted if entry.way == "inferlane.bulk"),
        calls_unanswered=load.http.unanswered,
        calls_refused={str(status): count for status, count in load.http.refused.items()},
        longest_stall_s=round(load.ledger.longest_stall_s, 1),
        wait_p50_s=round(float(np.percentile(waits_s, 50)), 4),
        wait_p99_s=round(float(np.percentile(waits_s, 99)), 4),
        lost=verdict.lost,
        wrong=verdict.wrong,
        hanging=verdict.hanging,
        contradicted=verdict.contradicted,
        repeats_differ=verdict.repeats_differ,
        forgotten=verdict.forgotten,
    )


def _first(name: str, findings: tuple[str, ...]) -> list[str]:
    shown = [f"{name}: {finding}" for finding in findings[:_SHOWN]]
    return [*shown, f"{name}: and {len(findings) - _SHOWN} more"] if len(findings) > _SHOWN else shown

"""What a request costs as versions and partitions grow: CPU by kind of process, at one and the same offered rate.

Requests come at a constant rate, not in a closed loop. In a closed loop on a machine of two cores, 20 pools would have
less to batch than 2 and each process less of a core: the loop would slow down, and the costs at two rates would be
compared. At a constant rate far below what either can do, a worker finds about one request at a time in both.

What a process spends when nobody asks is there ten times with ten times the pools, however few requests there are. It
is measured before the load; *beside idle* is what requests add to it.
"""

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec

from benchmarks.burst import send_burst
from benchmarks.cases import Case
from benchmarks.figures import per_thousand
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.spells import Spell, SpellMeter
from benchmarks.systems.deployed import SERVING, by_kind, serve_on
from benchmarks.systems.running import Running, post
from tests.support.brokers.kinds import BrokerKind

# Until what the start left to do is done, and the split is in force.
_SETTLE_S = 10.0
_PATIENCE_S = 30.0

_HEAD = (
    "| versions | partitions | process | CPU-s | ratio | beside idle | ratio | idle, of a core | answered | runs "
    "| available |"
)


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """So many versions of a model, one worker each, and so many partitions of each topic of requests."""

    versions: int
    partitions: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<versions>x<partitions>`.

        Raises:
            ValueError: it is not that.
        """
        versions, _, partitions = text.partition("x")
        return cls(versions=int(versions), partitions=int(partitions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So long without a request, then as long at a constant rate."""

    rate_per_s: float
    seconds: float


class CostRun(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment, idle and then under load."""

    deployment: Deployment
    sent: int
    answered: int
    idle: Spell
    loaded: Spell

    def per_1000(self, kinds: Iterable[str]) -> float:
        """CPU seconds for 1,000 answers, with what is spent when nobody asks."""
        return per_thousand(_spent_s(self.loaded, kinds), self.answered)

    def beside_idle_per_1000(self, kinds: Iterable[str]) -> float:
        """CPU seconds that 1,000 answers add to what is spent when nobody asks."""
        idle_s = _spent_s(self.idle, kinds) / self.idle.running_s * self.loaded.running_s
        return per_thousand(_spent_s(self.loaded, kinds) - idle_s, self.answered)

    def idle_share(self, kinds: Iterable[str]) -> float:
        """Of one core, the share that is spent when nobody asks."""
        return _spent_s(self.idle, kinds) / self.idle.running_s


def _spent_s(spell: Spell, kinds: Iterable[str]) -> float:
    spent = by_kind(spell.cpu_s)
    return sum(spent[kind] for kind in kinds)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `python -m benchmarks cost` found."""

    case: str
    broker: str
    machine: Machine
    rate_per_s: float
    runs: tuple[CostRun, ...]


def measure_cost(case: Case, broker: BrokerKind, deployments: Sequence[Deployment], load: Load, *, rounds: int) -> Cost:
    """Run each deployment `rounds` times; every other round in reverse order."""
    runs = [
        _run(case, broker, deployment, load)
        for turn in range(rounds)
        for deployment in deployments[:: -1 if turn % 2 else 1]
    ]
    return Cost(case=case.name, broker=broker, machine=this_machine(), rate_per_s=load.rate_per_s, runs=tuple(runs))


def _run(case: Case, broker: BrokerKind, deployment: Deployment, load: Load) -> CostRun:
    partitions = dict.fromkeys(("ingress_partitions", "work_partitions"), deployment.partitions)
    with tempfile.TemporaryDirectory() as name:
        many = _with_versions(case, deployment.versions, Path(name) / "models")
        with serve_on(broker, many, Path(name) / "broker", **partitions) as running:
            _split_evenly(running, many.model, deployment.versions)
            time.sleep(_SETTLE_S)
            with SpellMeter(running.processes) as idle:
                time.sleep(load.seconds)
            with SpellMeter(running.processes) as loaded:
                sending = send_burst(
                    running, many, rate_per_s=load.rate_per_s, duration_s=load.seconds, patience_s=_PATIENCE_S
                )
                burst = asyncio.run(sending)
    return CostRun(
        deployment=deployment, sent=burst.sent, answered=burst.answered, idle=idle.spell, loaded=loaded.spell
    )


def _with_versions(case: Case, count: int, models_dir: Path) -> Case:
    """The case with its one version under `count` names."""
    source, target = case.models_dir / case.model, models_dir / case.model
    for name in _names(count):
        shutil.copytree(case.onnx.parent, target / name)
    shutil.copy2(source / "model.toml", target)
    return replace(case, models_dir=models_dir, onnx=target / case.onnx.parent.name / case.onnx.name)


def _names(count: int) -> list[str]:
    return [f"v{number}" for number in range(1, count + 1)]


def _split_evenly(running: Running, model: str, versions: int) -> None:
    body = {"model": model, "weights": dict.fromkeys(_names(versions), 1.0)}
    post(running.url.replace("/v1/models/predict", "/v1/traffic-split"), msgspec.json.encode(body))


def cost_to_markdown(cost: Cost) -> str:
    """One table, of medians over the rounds; ratios are to the first deployment."""
    lines = [
        f"## Cost of a request: {cost.case}, {cost.rate_per_s:,.0f} requests/s, {cost.broker} broker",
        "",
        f"{cost.machine.cpu}, {cost.machine.cores} cores; {cost.machine.measured_at}. CPU-s for 1,000 answers.",
        "",
        _HEAD,
        "|---:|---:|---|" + "---:|" * 8,
    ]
    first: dict[tuple[str, ...], tuple[float, float]] = {}
    for deployment in dict.fromkeys(run.deployment for run in cost.runs):
        runs = [run for run in cost.runs if run.deployment == deployment]
        answered = sum(run.answered for run in runs) / sum(run.sent for run in runs)
        available = statistics.median(run.loaded.available for run in runs)
        for kinds in (*((kind,) for kind in SERVING), SERVING):
            whole = statistics.median(run.per_1000(kinds) for run in runs)
            beside = statistics.median(run.beside_idle_per_1000(kinds) for run in runs)
            idle = statistics.median(run.idle_share(kinds) for run in runs)
            of_first = first.setdefault(kinds, (whole, beside))
            lines.append(
                f"| {deployment.versions} | {deployment.partitions} | {', '.join(kinds)} "
                f"| {whole:.3f} | {whole / of_first[0]:.2f} | {beside:.3f} | {beside / of_first[1]:.2f} "
                f"| {idle:.1%} | {answered:.1%} | {len(runs)} | {available:.0%} |"
            )
    return "\n".join(lines) + "\n"

"""The router's state path: what reading, adding up and publishing the workers' summaries costs the real process.

A router that has nothing to forward is given the summaries that workers send while they answer so many requests a
second, one a worker a second, made by the code that makes them in a worker. What it spends beyond a spell without
summaries is the state path's; with what it spends in that spell, polls of the data path among it, an upper bound.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from benchmarks.bench import READY_WITHIN_S, Bench, open_bench
from benchmarks.cases import SAMPLES, load_case
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.spells import Spell, SpellMeter
from benchmarks.steps import Step, timed
from benchmarks.systems.running import answers_get
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Names
from inferlane.contracts.outcomes import OutcomeSummary, decode_summary, encode_summary
from inferlane.contracts.results import Status
from inferlane.contracts.windows import Slot, add, encode_slot
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.retry import SystemClock
from models.catalog import ModelVersion
from tests.support.brokers.kinds import BrokerKind
from tests.support.brokers.processes import wait_until
from workers.outcome_summaries import OutcomeRecorder

NAMES = Names()

NOTHING = "without summaries"
SUMMARIES = "with summaries"
_SEED = 7
# About what a worker finds waiting at concurrency 64.
_BATCH = 16
_INTERVAL_S = 1.0
# A slot of 5 s of one version, whose workers are few.
_SUMMARIES_A_SLOT = 20
_ROUTER = (sys.executable, "-m", "control_plane", "router")


class StateRun(msgspec.Struct, frozen=True, kw_only=True):
    """One spell of the router, and what was written to the outcome topic in it."""

    way: str
    summaries: int
    summary_bytes: int
    spell: Spell

    @property
    def share(self) -> float:
        """Of one core, what the router spent."""
        return self.spell.cpu_s["router"] / self.spell.running_s


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `python -m benchmarks state` found; steps are for one summary."""

    broker: str
    machine: Machine
    workers: int
    rate_per_s: float
    runs: tuple[StateRun, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """So many workers that answer so many requests a second between them."""

    workers: int
    rate_per_s: float


class _Reports:
    """What the workers of a pool say, second by second."""

    def __init__(self, versions: Sequence[ModelVersion], pool: Pool) -> None:
        self._rng = np.random.default_rng(_SEED)
        self._requests = round(pool.rate_per_s * _INTERVAL_S / pool.workers)
        self._classes = len(versions[0].classes)
        self._recorders = [
            OutcomeRecorder(
                model=version.model,
                version=version.version,
                worker_id=f"{number:032x}",
                clock=SystemClock(),
                classes=version.classes,
            )
            for number in range(pool.workers)
            for version in [versions[number % len(versions)]]
        ]

    def take(self) -> list[OutcomeSummary]:
        """A summary of each worker, after another second of answers."""
        return [summary for recorder in self._recorders if (summary := self._after_a_second(recorder))]

    def _after_a_second(self, recorder: OutcomeRecorder) -> OutcomeSummary | None:
        for start in range(0, self._requests, _BATCH):
            rows = min(_BATCH, self._requests - start)
            wait_s = self._rng.lognormal(mean=-5.5, sigma=0.5, size=rows)
            inference_s = np.full(rows, self._rng.lognormal(mean=-8.0, sigma=0.3))
            recorder.observe_batch(
                statuses={Status.SUCCEEDED: rows},
                rows=rows,
                queue_wait_s=wait_s,
                inference_s=inference_s,
                total_s=wait_s + inference_s,
                labels=self._rng.integers(0, self._classes, rows),
            )
        return recorder.take_summary()


def measure_state(broker: BrokerKind, pool: Pool, *, seconds: float, rounds: int) -> State:
    """One router; spells with and without summaries in turn, every other round in reverse order."""
    case = replace(load_case("iris"), models_dir=SAMPLES)
    with open_bench(broker, case) as bench, bench.process(_ROUTER) as router:
        url = f"http://127.0.0.1:{bench.settings.ports.ops_port}/readyz"
        wait_until(lambda: answers_get(url), within_s=READY_WITHIN_S, what="the router is ready")
        reports = _Reports(tuple(bench.catalog.model().versions.values()), pool)
        runs = [
            asyncio.run(_spell(bench, router.pid, way, reports, seconds))
            for turn in range(rounds)
            for way in (NOTHING, SUMMARIES)[:: -1 if turn % 2 else 1]
        ]
    return State(
        broker=broker,
        machine=this_machine(),
        workers=pool.workers,
        rate_per_s=pool.rate_per_s,
        runs=tuple(runs),
        steps=_time_steps(reports.take()[0]),
    )


async def _spell(bench: Bench, router_pid: int, way: str, reports: _Reports, seconds: float) -> StateRun:
    producer = BatchProducer(bench.settings.kafka)
    await producer.start()
    count, size_bytes = 0, 0
    try:
        with SpellMeter({"router": router_pid}) as meter:
            ends_s = time.monotonic() + seconds
            while time.monotonic() < ends_s:
                if way == SUMMARIES:
                    records = [_record(summary) for summary in reports.take()]
                    await producer.send(records)
                    count += len(records)
                    size_bytes += sum(len(record.value) for record in records)
                await asyncio.sleep(_INTERVAL_S)
    finally:
        await producer.close()
    return StateRun(way=way, summaries=count, summary_bytes=size_bytes, spell=meter.spell)


def _record(summary: OutcomeSummary) -> OutRecord:
    key = f"{summary.model}/{summary.version}".encode()
    return OutRecord(NAMES.outcomes, key, encode_summary(summary), [("content-type", b"application/json")])


def _time_steps(summary: OutcomeSummary) -> tuple[Step, ...]:
    raw = encode_summary(summary)
    slot = Slot(model=summary.model, version=summary.version, index=0)
    for sequence in range(_SUMMARIES_A_SLOT):
        slot = add(slot, msgspec.structs.replace(summary, sequence=summary.sequence + 1 + sequence))
    return (
        timed("state", "summary from bytes", lambda: decode_summary(raw)),
        timed("state", "into its slot", lambda: add(slot, summary)),
        timed("state", "slot to bytes", lambda: encode_slot(slot)),
    )


def state_to_markdown(state: State) -> str:
    """Two tables: shares of a core, and the pure steps."""
    shares = {way: statistics.median(run.share for run in state.runs if run.way == way) for way in (NOTHING, SUMMARIES)}
    available = statistics.median(run.spell.available for run in state.runs)
    summaries = sum(run.summaries for run in state.runs)
    mean_bytes = sum(run.summary_bytes for run in state.runs) / summaries if summaries else 0.0
    lines = [
        f"## State path: {state.workers} workers, {state.rate_per_s:,.0f} requests/s, {state.broker} broker",
        "",
        f"Summaries of {mean_bytes:,.0f} bytes; {available:.0%} available; {state.machine.measured_at}.",
        "",
        "| router | share of one core |",
        "|---|---:|",
        *(f"| {way} | {share:.2%} |" for way, share in shares.items()),
        f"| the summaries | {shares[SUMMARIES] - shares[NOTHING]:.2%} |",
        "",
        "| pure step | CPU µs for one summary |",
        "|---|---:|",
        *(f"| {step.step} | {step.cpu_us:.1f} |" for step in state.steps),
    ]
    return "\n".join(lines) + "\n"

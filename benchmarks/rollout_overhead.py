"""What the code of rollouts costs where there is none: instructions of a request in the router and in the worker.

A hundredth of a request is less than any timing tells on a machine that others use. Instructions that valgrind counts
are the same in every run, so the difference between this checkout and one without that code can be read off.

`python -m benchmarks.rollout_overhead ROUTER WORKER` forwards and serves so many batches, for valgrind.
"""

import asyncio
import logging
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import msgspec
import numpy as np
import structlog

from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.steps import request_record
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.errors import InferlaneError
from inferlane.runtime.config import load_settings
from inferlane.runtime.delivery import Reply
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.kafka.offsets import Ticket
from inferlane.runtime.rerouting import MovedRequests
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.split_table import SplitTable
from router.forwarder import Forwarder
from tests.support.fakes.records import FakeRecord, make_catalog, make_version
from workers.batch_telemetry import BatchTelemetry
from workers.failure_limit import FailureLimit
from workers.fallback_writer import FallbackWriter
from workers.outcome_summaries import OutcomeRecorder
from workers.pipeline import Pipeline
from workers.rollout_tallies import RolloutTallies
from workers.run_limit import RunLimit
from workers.shadow_copies import ShadowCopies

_VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
_BATCH = 8
_BATCHES = 200
# Batches before those that are counted, in which caches fill.
_FEW = 10
_HOPS = ("router", "worker")
_REFS = re.compile(r"I\s+refs:\s+([\d,]+)")
# Later than any run of this, so that no deadline passes; always the same, or the counts would differ.
_NOW_S = 4e9


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """Instructions for a request in each hop, of this checkout and of the other, and microseconds of this one."""

    machine: Machine
    batch: int
    ours: dict[str, float]
    theirs: dict[str, float]
    ours_us: dict[str, float]

    @property
    def more_us(self) -> dict[str, float]:
        """Microseconds of a request that the code of rollouts takes, by its share of the instructions."""
        return {hop: self.ours_us[hop] * (self.ours[hop] - self.theirs[hop]) / self.ours[hop] for hop in self.ours}


def measure_overhead(other: Path) -> Overhead:
    """Count both checkouts; `other` is one without the code of rollouts, and needs no `.venv` of its own."""
    here = Path(__file__).resolve().parent.parent
    with ThreadPoolExecutor() as threads:
        ours, theirs = threads.map(_counted, (here, other.resolve()))
    return Overhead(machine=this_machine(), batch=_BATCH, ours=ours, theirs=theirs, ours_us=_timed())


def overhead_to_markdown(found: Overhead) -> str:
    """A row for each hop."""
    lines = [
        f"{found.machine.measured_at}. Batches of {found.batch} requests, no rollout; broker and store are fakes.",
        "",
        "| hop | instructions a request | without the code of rollouts | more | CPU µs a request | of which it is |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for hop in _HOPS:
        ours, theirs, spent_us = found.ours[hop], found.theirs[hop], found.ours_us[hop]
        more = ours - theirs
        lines.append(
            f"| {hop} | {ours:,.0f} | {theirs:,.0f} | {more:,.0f} | {spent_us:.1f} | {spent_us * more / ours:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _counted(checkout: Path) -> dict[str, float]:
    """Instructions of a request in each hop: what a process with many batches takes more than one with few."""
    # Without valgrind first: it compiles modules, which the next one finds compiled.
    subprocess.run(_argv(_FEW, _FEW), cwd=checkout, env=_environment(), check=True)
    few = _instructions(checkout, _FEW, _FEW)
    many = {
        "router": _instructions(checkout, _FEW + _BATCHES, _FEW),
        "worker": _instructions(checkout, _FEW, _FEW + _BATCHES),
    }
    return {hop: (many[hop] - few) / (_BATCHES * _BATCH) for hop in _HOPS}


def _argv(router: int, worker: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.rollout_overhead", str(router), str(worker)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}


def _instructions(checkout: Path, router: int, worker: int) -> int:
    argv = [*_VALGRIND, *_argv(router, worker)]
    done = subprocess.run(argv, cwd=checkout, env=_environment(), capture_output=True, text=True, check=True)
    found = _REFS.search(done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind told no count of instructions: {done.stderr[-500:]!r}")
    return int(found[1].replace(",", ""))


def _timed() -> dict[str, float]:
    async def spent_us(hop: str) -> float:
        turns = _Turns()
        await turns.take(hop, _BATCHES)
        rounds = []
        for _ in range(30):
            before_s = time.process_time()
            await turns.take(hop, _BATCHES)
            rounds.append((time.process_time() - before_s) / (_BATCHES * _BATCH) * 1e6)
        return min(rounds)

    with patch("workers.model._INLINE_S", math.inf):
        return {hop: asyncio.run(spent_us(hop)) for hop in _HOPS}


class _Turns:
    """Both hops with their own parts and nothing outside the process."""

    def __init__(self) -> None:
        # As a service does.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
        names, clock, retrier = Names(), SystemClock(), Retrier()
        version = make_version()
        settings = load_settings()
        self._router = Forwarder(
            names,
            settings.webhooks,
            catalog=make_catalog(),
            splits=SplitTable(),
            producer=_Sender(),
            delivery=_Delivery(),  # type: ignore[arg-type]  # of the same shape
            retrier=retrier,
        )
        limit = FailureLimit(settings.worker, model=version.model, version=version.version, clock=clock)
        tallies = RolloutTallies(version)
        recorder = OutcomeRecorder(
            model=version.model, version=version.version, worker_id="w", clock=clock, classes=version.classes,
            tallies=tallies,
        )  # fmt: skip
        self._worker = Pipeline(
            settings.worker,
            settings.feedback,
            settings.kafka,
            names,
            model=_Model(),  # type: ignore[arg-type]  # as above
            delivery=_Delivery(),  # type: ignore[arg-type]  # as above
            telemetry=BatchTelemetry(version, recorder, limit, tallies=tallies),
            fallbacks=FallbackWriter(_Sender(), retrier, model=version.model, version=version.version),
            shadows=ShadowCopies(version, _Sender(), None, names=names, clock=clock),  # type: ignore[arg-type]  # unused
            cancelled=(),
            clock=clock,
            moved=MovedRequests(None, redis_url="", names=names, clock=clock),  # type: ignore[arg-type]  # as above
            run_limit=RunLimit(1.0, SimpleNamespace(terminate=False), failures=limit),
        )
        tensors = decode_instances(b"[[5.1, 3.5, 1.4, 0.2]]", version.signature)
        records = [
            request_record("iris", tensors, request_id=f"{number:032}", now_s=_NOW_S) for number in range(_BATCH)
        ]
        unrouted = [
            FakeRecord(value=payload, headers=tuple(header for header in headers if header[0] != "ce_modelversion"))
            for payload, headers in records
        ]
        self._unrouted = FetchedBatch(unrouted, Ticket({}))
        routed = [self._router.decide(record, Lane.REQUESTS) for record in unrouted]
        self._routed = FetchedBatch(
            [
                FakeRecord(value=one.out.value, headers=tuple(one.out.headers))
                for one in routed
                if not isinstance(one, Reply)
            ],
            Ticket({}),
        )

    async def take(self, hop: str, batches: int) -> None:
        for _ in range(batches):
            if hop == "router":
                await self._router.forward(self._unrouted, Lane.REQUESTS)
            else:
                await self._worker.serve(self._routed, Lane.REQUESTS)


class _Model:
    version = make_version()

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs["input"])
        return {"label": np.zeros(rows, np.int64), "probabilities": np.full((rows, 3), 1 / 3, np.float32)}


class _Sender:
    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        return [None] * len(records)


class _Delivery:
    async def deliver(self, replies: Sequence[Reply]) -> None:
        """Nobody waits for a reply."""


async def _take(router: int, worker: int) -> None:
    turns = _Turns()
    await turns.take("router", router)
    await turns.take("worker", worker)


if __name__ == "__main__":
    with patch("workers.model._INLINE_S", math.inf):
        asyncio.run(_take(int(sys.argv[1]), int(sys.argv[2])))

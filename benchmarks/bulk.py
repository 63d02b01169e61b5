"""One worker on bulk records beside onnxruntime alone on the same rows: what the way through the queue costs."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Self

import msgspec
import numpy as np
from aiokafka import TopicPartition

from benchmarks.backlog import Backlog, Drain, time_drain
from benchmarks.bench import Bench, open_bench
from benchmarks.cases import Case
from benchmarks.machine import this_machine
from benchmarks.measured import Checked, Machine
from benchmarks.queueing import QueueGauge
from benchmarks.stalls import StallGauge
from inferlane.contracts.kafka_record import OutRecord, format_time
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import JSON_LENGTH, fixed_request_headers, read_headers
from inferlane.contracts.wire.v2 import decode_response, encode_binary_request
from inferlane.runtime.kafka.topic_reader import read_since
from models.catalog import ModelVersion
from models.model_session import open_session
from models.training import INPUT, PROBABILITIES
from tests.support.brokers.kinds import BrokerKind

NAMES = Names()

ROWS_A_RECORD = 256
ALONE = "onnxruntime alone"
WORKER = "one worker"
_ALONE_S = 3.0
# Different records; each result is checked against its own.
_BLOCKS = 32
# What the result topic keeps of a batch job: its id.
_JOB = "benchmark"

_HEAD = (
    "| way | rows/s, running | ratio | rows/s, served | ratio | rows for a CPU-s | ratio | CPU µs a record | wrong "
    "| runs | available |"
)


class BulkRun(msgspec.Struct, frozen=True, kw_only=True):
    """One way through records of `ROWS_A_RECORD` rows; `checked` counts their results."""

    way: str
    drain: Drain
    checked: Checked


class Bulk(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `python -m benchmarks bulk` found."""

    case: str
    broker: str
    machine: Machine
    runs: tuple[BulkRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Inputs of records, each `(ROWS_A_RECORD, features) float32`, and onnxruntime's probabilities for each."""

    inputs: Sequence[np.ndarray]
    expected: Sequence[np.ndarray]

    @classmethod
    def of(cls, case: Case) -> Self:
        """The rows of the case over and over, each block beginning with another row."""
        session = open_session(case.onnx)
        shape = (ROWS_A_RECORD, case.rows.shape[1])
        inputs = [np.resize(np.roll(case.rows, -number, axis=0), shape) for number in range(_BLOCKS)]
        return cls(inputs=inputs, expected=[session.run([PROBABILITIES], {INPUT: block})[0] for block in inputs])


def measure_bulk(case: Case, broker: BrokerKind, *, records: int, rounds: int) -> Bulk:
    """Run both ways in turn; every other round in reverse order."""
    blocks = _Blocks.of(case)
    ways: dict[str, Callable[[], BulkRun]] = {
        ALONE: lambda: _infer_alone(case, blocks),
        WORKER: lambda: _drain(case, broker, blocks, records=records),
    }
    runs = [ways[way]() for turn in range(rounds) for way in list(ways)[:: -1 if turn % 2 else 1]]
    return Bulk(case=case.name, broker=broker, machine=this_machine(), runs=tuple(runs))


def _infer_alone(case: Case, blocks: _Blocks) -> BulkRun:
    """The upper bound: one thread that does nothing but infer, block after block."""
    session = open_session(case.onnx)
    session.run(None, {INPUT: blocks.inputs[0]})
    with StallGauge() as gauge, QueueGauge(os.getpid()) as queue:
        started_s, cpu_s = time.perf_counter(), time.thread_time()
        for done in count(1):
            session.run(None, {INPUT: blocks.inputs[done % _BLOCKS]})
            elapsed_s = time.perf_counter() - started_s
            if elapsed_s >= _ALONE_S:
                break
        cpu_s = time.thread_time() - cpu_s
        available = 1.0 - gauge.stalled_s / elapsed_s
    return BulkRun(
        way=ALONE,
        drain=Drain(records=done, elapsed_s=elapsed_s, available=available, cpu_s=cpu_s, waited_s=queue.waited_s),
        checked=Checked(),
    )


def _drain(case: Case, kind: BrokerKind, blocks: _Blocks, *, records: int) -> BulkRun:
    with open_bench(kind, case) as bench:
        model = bench.catalog.model()
        version = model.version(model.default_version)
        outputs = [
            TopicPartition(NAMES.results, partition) for partition in range(bench.settings.kafka.ingress_partitions)
        ]
        argv = (sys.executable, "-m", "control_plane", "worker", "--model", version.model, "--version", version.version)
        backlog = Backlog(make=_bulk_records(version, blocks), count=records, outputs=outputs)
        drain = time_drain(bench, argv, backlog)
        checked = asyncio.run(_check(bench, backlog, blocks, tolerance=case.tolerance))
    return BulkRun(way=WORKER, drain=drain, checked=checked)


def _bulk_records(version: ModelVersion, blocks: _Blocks) -> Callable[[int], OutRecord]:
    """Records as `inferlane batch submit` makes them and the router forwards them."""
    payloads = [encode_binary_request({INPUT: block}) for block in blocks.inputs]
    fixed = (*fixed_request_headers(source="inferlane/benchmarks", model=version.model), ("ce_batchid", _JOB.encode()))
    topic = NAMES.work_topic(version.model, version.version, Lane.BULK)

    def make(number: int) -> OutRecord:
        payload, json_length = payloads[number % _BLOCKS]
        request_id = f"{_JOB}-{number}".encode()
        headers = [
            *fixed,
            ("ce_id", request_id),
            ("ce_time", format_time(time.time())),
            ("ce_modelversion", version.version.encode()),
            (JSON_LENGTH, b"%d" % json_length),
        ]
        return OutRecord(topic, request_id, payload, headers)

    return make


async def _check(bench: Bench, backlog: Backlog, blocks: _Blocks, *, tolerance: float) -> Checked:
    """Hold every result against onnxruntime's; a record without one, or whose result is no success, has failed."""
    seen: dict[int, bool] = {}
    async with aclosing(read_since(bench.settings.kafka, backlog.outputs, since_s=0.0)) as batches:
        async for results in batches:
            for result in results:
                headers = read_headers(result)
                if dict(result.headers)["ce_status"] != b"SUCCEEDED":
                    continue
                number = int(headers.request_id.rpartition("-")[2])
                answered = decode_response(result.value or b"", headers.json_length)[PROBABILITIES]
                expected = blocks.expected[number % _BLOCKS]
                seen[number] = np.allclose(answered, expected, rtol=0, atol=tolerance)
    equal = sum(seen.values())
    return Checked(equal=equal, unequal=len(seen) - equal, failed=backlog.count + 1 - len(seen))


def bulk_to_markdown(bulk: Bulk) -> str:
    """One table of medians over the rounds; ratios are to onnxruntime alone."""
    machine = bulk.machine
    lines = [
        f"## Bulk: {bulk.case}, {ROWS_A_RECORD} rows a record, {bulk.broker} broker",
        "",
        f"{machine.cpu}, {machine.cores} cores; {machine.measured_at}.",
        "*served*: by the time in which the busiest thread did not wait for a core.",
        "",
        _HEAD,
        "|---|" + "---:|" * 10,
    ]
    first: tuple[float, ...] | None = None
    for way in (ALONE, WORKER):
        runs = [run for run in bulk.runs if run.way == way]
        drains = [run.drain for run in runs]
        rates = (
            statistics.median(drain.per_running_s for drain in drains),
            statistics.median(drain.per_served_s for drain in drains),
            statistics.median(drain.per_cpu_s for drain in drains),
        )
        first = first or rates
        cells = [f"{rate * ROWS_A_RECORD:,.0f} | {rate / of:.1%}" for rate, of in zip(rates, first, strict=True)]
        available = statistics.median(drain.available for drain in drains)
        ending = f"{1e6 / rates[-1]:,.0f} | {_wrong(runs)} | {len(runs)} | {available:.0%}"
        lines.append(f"| {way} | {' | '.join(cells)} | {ending} |")
    return "\n".join(lines) + "\n"


def _wrong(runs: Sequence[BulkRun]) -> str:
    asked = sum(run.checked.equal + run.checked.unequal + run.checked.failed for run in runs)
    wrong = sum(run.checked.unequal + run.checked.failed for run in runs)
    return f"{wrong} of {asked}" if asked else ""

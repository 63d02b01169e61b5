"""The pure steps of one request, timed one by one: what each costs of a core when nothing else happens."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.cases import Case
from inferlane.contracts.kafka_record import Headers, KafkaRecord, format_time
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import JSON_LENGTH, fixed_request_headers, read_unidentified
from inferlane.contracts.results import Result, decode_wake_up, encode_result, encode_wake_up
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.contracts.wire.v2 import encode_binary_request
from inferlane.runtime.config import load_settings
from inferlane.runtime.split_table import SplitTable
from models.store_reader import load_catalog
from producer_api.predict.endpoint import ResponseBuilder, encode_json
from router.routing import route
from workers.batching import RunTimes, run_batch, stack
from workers.model import OnnxModel
from workers.replies import ReplyBuilder
from workers.request_reader import RequestReader

_TURNS = 200
_DEADLINE_S = 300.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """CPU microseconds of one step for one request: the median of many turns, with a batch's cost shared out."""

    hop: str
    step: str
    cpu_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """A record as a consumer hands it over."""

    value: bytes
    headers: Headers
    topic: str = "benchmark"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None


def time_steps(case: Case, *, batch: int) -> tuple[Step, ...]:
    """Every step of a request in the order in which it takes them, with batches of `batch` requests."""
    return tuple(_steps(case, batch))


def _steps(case: Case, batch: int) -> Iterator[Step]:
    catalog = load_catalog(case.models_dir, default_model=case.model)
    model = catalog.model()
    version = model.version(model.default_version)
    raw = json.dumps([[float(str(number)) for number in case.rows[0]]]).encode()
    tensors = decode_instances(raw, version.signature, max_rows=100)
    yield timed("parse", "rows from JSON", lambda: decode_instances(raw, version.signature, max_rows=100))
    yield timed("produce", "record", lambda: _record(case.model, tensors))
    records: list[KafkaRecord] = [_record(case.model, tensors) for _ in range(batch)]
    headers = read_unidentified(records[0])
    splits = SplitTable()
    yield timed("route", "headers", lambda: read_unidentified(records[0]))
    yield timed("route", "version", lambda: route(headers, splits, catalog))
    reader = RequestReader(version)
    requests, _ = reader.read(records, Lane.REQUESTS)
    yield timed("batch", "records to tensors", lambda: reader.read(records, Lane.REQUESTS), share=batch)
    yield timed("batch", "one array of all", lambda: stack(requests), share=batch)
    session = OnnxModel(version, intra_op_num_threads=load_settings().worker.intra_op_num_threads)
    block = stack(requests)
    yield timed("infer", f"run of {batch}", lambda: session.run(block), share=batch)
    inferred = run_batch(session.run, requests)
    replies = ReplyBuilder(version, names=Names(), max_result_bytes=1 << 20, results_sample=0.0)
    times = RunTimes(started_s=1.0, ended_s=2.0)
    yield timed("store", "result", lambda: replies.of_inferred(inferred[0], times))
    results: list[Result] = [replies.of_inferred(one, times).result for one in inferred]
    yield timed("store", "result to bytes", lambda: encode_result(results[0]))
    message = encode_wake_up(results)
    yield timed("wake-up", "results to bytes", lambda: encode_wake_up(results), share=batch)
    yield timed("wake-up", "results from bytes", lambda: decode_wake_up(message), share=batch)
    responses = ResponseBuilder(catalog)
    yield timed("respond", "JSON of the answer", lambda: encode_json(responses.body(results[0])))


def _record(model: str, tensors: dict[str, np.ndarray]) -> _Record:
    payload, headers = request_record(model, tensors, request_id="0" * 32, now_s=1.0)
    return _Record(value=payload, headers=headers)


def request_record(
    model: str, tensors: dict[str, np.ndarray], *, request_id: str, now_s: float
) -> tuple[bytes, Headers]:
    """The payload and headers of a record as the API makes it."""
    payload, json_length = encode_binary_request(tensors)
    headers = [
        *fixed_request_headers(source="inferlane/benchmarks", model=model),
        ("ce_replyto", b"0" * 32),
        ("ce_id", request_id.encode()),
        ("ce_time", format_time(now_s)),
        ("ce_deadline", format_time(now_s + _DEADLINE_S)),
        (JSON_LENGTH, b"%d" % json_length),
    ]
    return payload, headers


def timed(hop: str, step: str, do: Callable[[], object], *, share: int = 1) -> Step:
    """Time by the thread's own CPU: a machine that is stopped does not spend it. `share` requests share one `do`."""
    repeat = _repeat(do)
    costs_us = []
    for _ in range(_TURNS):
        started_ns = time.thread_time_ns()
        for _ in range(repeat):
            do()
        costs_us.append((time.thread_time_ns() - started_ns) / repeat / 1000)
    return Step(hop=hop, step=step, cpu_us=round(statistics.median(costs_us) / share, 3))


def _repeat(do: Callable[[], object]) -> int:
    """How often a turn does it, so that a turn lasts about 0.2 ms: the clock itself costs a microsecond."""
    started_ns = time.thread_time_ns()
    do()
    once_ns = max(1, time.thread_time_ns() - started_ns)
    return max(1, 200_000 // once_ns)

"""The router's data path against Faust agents that do the same: how fast a process drains a topic, and at what CPU."""

import statistics
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
from aiokafka import TopicPartition

from benchmarks.backlog import Backlog, Drain, time_drain
from benchmarks.bench import Bench, open_bench
from benchmarks.cases import SAMPLES, Case, load_case
from benchmarks.figures import per_thousand
from benchmarks.steps import request_record
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.wire.v1 import decode_instances
from models.catalog import Catalog
from tests.support.brokers.kinds import BrokerKind

NAMES = Names()

_MODULE = (sys.executable, "-m")
WAYS: Mapping[str, tuple[str, ...]] = {
    "batch loop": (*_MODULE, "control_plane", "router"),
    "Faust agent, fetch by fetch": (*_MODULE, "benchmarks.systems.faust_agents", "takes"),
    "Faust agent, event by event": (*_MODULE, "benchmarks.systems.faust_agents", "events"),
}


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """One process that forwarded what waited for it."""

    way: str
    broker: str
    drain: Drain


def measure_routing(broker: BrokerKind, *, records: int, rounds: int) -> list[Routing]:
    """Let each way drain the same iris requests to all versions; every other round in reverse order."""
    case = replace(load_case("iris"), models_dir=SAMPLES)
    found = []
    for turn in range(rounds):
        for way in list(WAYS)[:: -1 if turn % 2 else 1]:
            with open_bench(broker, case) as bench:
                drain = time_drain(bench, WAYS[way], _backlog(bench, case, records))
            found.append(Routing(way=way, broker=broker, drain=drain))
    return found


def _backlog(bench: Bench, case: Case, records: int) -> Backlog:
    outputs = [
        TopicPartition(NAMES.work_topic(version.model, version.version, Lane.REQUESTS), partition)
        for version in bench.catalog.all_versions()
        for partition in range(bench.settings.kafka.work_partitions)
    ]
    return Backlog(make=_requests(case, bench.catalog), count=records, outputs=outputs)


def _requests(case: Case, catalog: Catalog) -> Callable[[int], OutRecord]:
    """Requests of one row each, as the API writes them."""
    version = catalog.model().version(catalog.model().default_version)
    rows = [msgspec.json.encode([row.tolist()]) for row in case.rows]
    tensors = [decode_instances(raw, version.signature, max_rows=1) for raw in rows]

    def make(number: int) -> OutRecord:
        request_id = uuid.uuid4().hex
        payload, headers = request_record(
            case.model, tensors[number % len(tensors)], request_id=request_id, now_s=time.time()
        )
        return OutRecord(NAMES.ingress[Lane.REQUESTS], request_id.encode(), payload, headers)

    return make


def routing_to_markdown(found: Sequence[Routing]) -> str:
    """One table; ratios are to the first way."""
    lines = [
        "| broker | router | records/s, running | ratio | CPU-s for 1,000 | ratio | runs | available |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for broker in dict.fromkeys(routing.broker for routing in found):
        first: tuple[float, float] | None = None
        for way in WAYS:
            drains = [routing.drain for routing in found if (routing.way, routing.broker) == (way, broker)]
            rate = statistics.median(drain.per_running_s for drain in drains)
            cpu_s = statistics.median(per_thousand(drain.cpu_s, drain.records) for drain in drains)
            available = statistics.median(drain.available for drain in drains)
            first = first or (rate, cpu_s)
            lines.append(
                f"| {broker} | {way} | {rate:,.0f} | {rate / first[0]:.2f} | {cpu_s:.4f} | {cpu_s / first[1]:.1f} "
                f"| {len(drains)} | {available:.0%} |"
            )
    return "\n".join(lines) + "\n"

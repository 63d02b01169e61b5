"""The router's data path against Faust agents that do the same: how fast a process drains a topic, and at what CPU."""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
from aiokafka import TopicPartition

from benchmarks.cases import SAMPLES, Case, load_case
from benchmarks.figures import per_thousand
from benchmarks.stalls import StallGauge
from benchmarks.steps import request_record
from benchmarks.systems.running import NotReadyError, process
from benchmarks.usage import usage_of
from inferlane.config import Settings
from inferlane.kafka.clients import make_consumer
from inferlane.kafka.producing import BatchProducer, OutRecord
from inferlane.splits import make_split, publish_split
from inferlane.stack.store import store_answers, store_argv
from inferlane.topics import INGRESS, Lane, create_topics, work_topic
from inferlane.wire.v1 import decode_instances
from models.catalog import Catalog, load_catalog
from tests.brokers import Broker, make_broker
from tests.brokers.kinds import BrokerKind
from tests.brokers.processes import free_ports, wait_until

_MODULE = (sys.executable, "-m")
WAYS: Mapping[str, tuple[str, ...]] = {
    "batch loop": (*_MODULE, "inferlane", "router"),
    "Faust agent, take by take": (*_MODULE, "benchmarks.systems.faust_agents", "takes"),
    "Faust agent, event by event": (*_MODULE, "benchmarks.systems.faust_agents", "events"),
}
_READY_WITHIN_S = 120.0
_DRAIN_WITHIN_S = 120.0
_POLL_S = 0.05
_FILL_AT_ONCE = 2_000
# A process that is stopped while its topic is filled keeps its place in the group.
_SESSION_TIMEOUT_MS = 60_000
_STORE_MIB = 64


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """One process that forwarded `records` which waited for it.

    `available` is the share of `elapsed_s` that the machine ran; CPU seconds are of the process alone.
    """

    way: str
    broker: str
    records: int
    elapsed_s: float
    available: float
    cpu_s: float


def measure_routing(broker: BrokerKind, *, records: int, rounds: int) -> list[Drain]:
    """Let each way drain the same iris requests to all versions; every other round in reverse order."""
    case = replace(load_case("iris"), models_dir=SAMPLES)
    drains = []
    for turn in range(rounds):
        for way in list(WAYS)[:: -1 if turn % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder, make_broker(broker, Path(folder)) as running:
                drains.append(_drain(way, case, running, records=records, log=Path(folder) / "router.log"))
    return drains


def _drain(way: str, case: Case, broker: Broker, *, records: int, log: Path) -> Drain:
    catalog = load_catalog(case.models_dir, default_model=case.model)
    store_port, ops_port = free_ports(2)
    overrides = {
        "models_dir": case.models_dir.absolute(),
        "default_model": case.model,
        "redis_url": f"redis://127.0.0.1:{store_port}/0",
        "ops_port": ops_port,
        "session_timeout_ms": _SESSION_TIMEOUT_MS,
        "log_level": "WARNING",
    }
    settings = broker.settings(**overrides)
    with ExitStack() as stack:
        stack.enter_context(process(store_argv(store_port, maxmemory_mib=_STORE_MIB), log=log))
        wait_until(lambda: asyncio.run(_answers(settings)), within_s=_READY_WITHIN_S, what="the store answers")
        asyncio.run(_prepare(settings, catalog))
        router = stack.enter_context(process(WAYS[way], log=log, env=os.environ | broker.environment(**overrides)))
        # One record through it: it has joined its group.
        asyncio.run(_fill(settings, case, catalog, 1))
        _wait_forwarded(settings, catalog, 1, within_s=_READY_WITHIN_S, log=log)
        with _stopped(router.pid):
            asyncio.run(_fill(settings, case, catalog, records))
            cpu_s = usage_of([router.pid]).cpu_s
        with StallGauge() as gauge:
            started_s = time.perf_counter()
            _wait_forwarded(settings, catalog, records + 1, within_s=_DRAIN_WITHIN_S, log=log)
            elapsed_s = time.perf_counter() - started_s
            available = 1.0 - gauge.stalled_s / elapsed_s
        return Drain(
            way=way,
            broker=broker.kind,
            records=records,
            elapsed_s=elapsed_s,
            available=available,
            cpu_s=usage_of([router.pid]).cpu_s - cpu_s,
        )


async def _answers(settings: Settings) -> bool:
    try:
        return await store_answers(settings.redis_url)
    except Exception:  # noqa: BLE001 - asked again until the time is over
        return False


async def _prepare(settings: Settings, catalog: Catalog) -> None:
    """Create the topics; every version has the same share."""
    versions = [(version.model, version.version) for version in catalog.all_versions()]
    await create_topics(settings, versions)
    model, known = catalog.default_model, catalog.model().versions
    await publish_split(
        settings,
        make_split(model, dict.fromkeys(known, 1.0), known=known, changed_s=time.time()),
    )


async def _fill(settings: Settings, case: Case, catalog: Catalog, count: int) -> None:
    """Write requests of one row each, as the API does."""
    version = catalog.model().version(catalog.model().default_version)
    rows = [msgspec.json.encode([row.tolist()]) for row in case.rows]
    tensors = [decode_instances(raw, version.signature, max_rows=1) for raw in rows]

    def made() -> Iterator[OutRecord]:
        for number in range(count):
            request_id = uuid.uuid4().hex
            payload, headers = request_record(
                case.model, tensors[number % len(tensors)], request_id=request_id, now_s=time.time()
            )
            yield OutRecord(INGRESS[Lane.REQUESTS], request_id.encode(), payload, headers)

    records = made()
    producer = BatchProducer(settings)
    await producer.start()
    try:
        while batch := list(islice(records, _FILL_AT_ONCE)):
            await producer.send(batch)
    finally:
        await producer.close()


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _wait_forwarded(settings: Settings, catalog: Catalog, count: int, *, within_s: float, log: Path) -> None:
    """Return when the topics of the versions hold so many records.

    Raises:
        NotReadyError: they do not in time, or hold more.
    """
    held = asyncio.run(_watch(settings, catalog, count, within_s=within_s))
    if held != count:
        raise NotReadyError(f"{held} records were forwarded, not {count}:\n{log.read_text(errors='replace')[-2000:]}")


async def _watch(settings: Settings, catalog: Catalog, count: int, *, within_s: float) -> int:
    partitions = [
        TopicPartition(work_topic(version.model, version.version, Lane.REQUESTS), partition)
        for version in catalog.all_versions()
        for partition in range(settings.work_partitions)
    ]
    consumer = make_consumer(settings, group=None)
    deadline_s = time.monotonic() + within_s
    await consumer.start()
    try:
        while (held := sum((await consumer.end_offsets(partitions)).values())) < count:
            if time.monotonic() > deadline_s:
                break
            await asyncio.sleep(_POLL_S)
        return int(held)
    finally:
        await consumer.stop()


def routing_to_markdown(drains: Sequence[Drain]) -> str:
    """One table; ratios are to the first way."""
    lines = [
        "| broker | router | records/s, running | ratio | CPU-s for 1,000 | ratio | runs | available |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for broker in dict.fromkeys(drain.broker for drain in drains):
        first: tuple[float, float] | None = None
        for way in WAYS:
            of_way = [drain for drain in drains if (drain.way, drain.broker) == (way, broker)]
            rate = statistics.median(drain.records / (drain.elapsed_s * drain.available) for drain in of_way)
            cpu_s = statistics.median(per_thousand(drain.cpu_s, drain.records) for drain in of_way)
            available = statistics.median(drain.available for drain in of_way)
            first = first or (rate, cpu_s)
            lines.append(
                f"| {broker} | {way} | {rate:,.0f} | {rate / first[0]:.2f} | {cpu_s:.4f} | {cpu_s / first[1]:.1f} "
                f"| {len(of_way)} | {available:.0%} |"
            )
    return "\n".join(lines) + "\n"

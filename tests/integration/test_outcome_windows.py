"""The state path with a real broker and a real store: summaries in, reports out, through crash and restart."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import confluent_kafka
import faust.app.base
import numpy as np
import pytest
from aiokafka import ConsumerRecord
from faust.tables.manager import TableManager
from faust.types import TP

import router.faust_app.app
import router.faust_app.faust_transport
from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Names
from inferlane.contracts.outcomes import encode_summary
from inferlane.contracts.results import Status
from inferlane.contracts.windows import WindowReport
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.kafka.lag import ConsumerState
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.window_store import WindowStore
from inferlane.runtime.retry import SystemClock
from models.adding.publication import write_version
from models.store import write_model
from tests.support.brokers import Broker
from tests.support.fakes.stores import describe_tiny, write_tiny_onnx
from tests.support.parts import embedded_store, eventually
from tests.support.recreated_topic import recreate
from tests.support.running_router import running_router
from workers.outcome_summaries import OutcomeRecorder

# Processes that import everything, on machines that do much else.
NAMES = Names()
pytestmark = pytest.mark.timeout(400)

WINDOW_S = 600
DRAIN_S = 5.0
ROUTER_PROGRAM = """
from functools import partial
from inferlane.runtime.config import load_settings
from inferlane.runtime.service import run
from router.main import serve
run(partial(serve, load_settings()))
"""
DYING_PROGRAM = f"""
import router.main

class Forwarder:
    def __init__(self, *_, **__):
        pass

    async def run(self, stop):
        raise ZeroDivisionError("the forwarder died")

router.main.Forwarder = Forwarder
{ROUTER_PROGRAM}
"""


@pytest.fixture
async def settings(broker: Broker) -> AsyncIterator[Settings]:
    async with embedded_store() as redis_url:
        settings = broker.settings(
            redis_url=redis_url,
            outcome_interval_s=0.1,
            outcome_window_s=WINDOW_S,
            drain_deadline_s=DRAIN_S,
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
        yield settings


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[BatchProducer]:
    producer = BatchProducer(settings.kafka)
    await producer.start()
    yield producer
    await producer.close()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[WindowStore]:
    async with connect(settings.store.redis_url) as redis:
        yield WindowStore(
            redis, redis_url=settings.store.redis_url, slot_s=settings.outcomes.slot_s, keep_s=WINDOW_S, names=Names()
        )


async def produce_batches(producer: BatchProducer, *, worker_id: str, batches: int) -> None:
    recorder = OutcomeRecorder(
        model="iris", version="v1", worker_id=worker_id, clock=SystemClock(), classes=("setosa", "versicolor")
    )
    for _ in range(batches):
        recorder.observe_batch(
            statuses={Status.SUCCEEDED: 3, Status.FAILED: 1},
            rows=3,
            queue_wait_s=np.array([0.1, 0.2, 0.3]),
            inference_s=np.full(3, 0.01),
            total_s=np.array([0.11, 0.21, 0.31]),
            labels=np.array([0, 0, 1]),
            failures={"model_error": 1},
        )
        summary = recorder.take_summary()
        assert summary is not None
        await producer.send([OutRecord(NAMES.outcomes, b"iris/v1", encode_summary(summary), [])])


async def wait_for_requests(store: WindowStore, requests: int, *, now_s: float | None = None) -> WindowReport:
    async def read() -> WindowReport:
        return await store.read("iris", "v1", window_s=WINDOW_S, now_s=now_s or time.time())

    async def is_there() -> bool:
        return (await read()).requests >= requests

    await eventually(is_there)
    return await read()


async def first_dead_letter(settings: Settings) -> ConsumerRecord:
    consumer = make_consumer(settings.kafka, NAMES.dead_letters, group=None)
    await consumer.start()
    try:
        return await asyncio.wait_for(consumer.getone(), timeout=30)
    finally:
        await consumer.stop()


async def test_summaries_of_two_workers_are_one_report(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> None:
    async with running_router(settings, producer, store):
        await produce_batches(producer, worker_id="a", batches=2)
        await produce_batches(producer, worker_id="b", batches=3)
        found = await wait_for_requests(store, 20)
    assert found.requests == 20
    assert found.outcomes == {"SUCCEEDED": 15, "FAILED": 5, "EXPIRED": 0}
    assert found.prediction_distribution == {"setosa": 10, "versicolor": 5}
    assert found.latency_ms.queue_wait.p50 == pytest.approx(200)
    assert found.resources.workers == 2
    assert found.resources.memory_bytes > 0


async def test_a_router_that_rests_counts_what_a_worker_beside_it_tells(
    broker: Broker, settings: Settings, store: WindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test may take: what is counted was told by a signal.
    monkeypatch.setattr(router.faust_app.faust_transport, "_REST_MS", 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        told = broker.settings(
            redis_url=settings.store.redis_url,
            outcome_interval_s=0.1,
            arrivals_dir=Path(folder),
            kafka_wakes_fetches=False,
        )
        worker = BatchProducer(told.kafka)
        await worker.start()
        async with running_router(told, worker, store):
            for number in range(1, 4):
                await produce_batches(worker, worker_id=f"worker-{number}", batches=1)
                await wait_for_requests(store, 4 * number)
        await worker.close()


async def test_a_router_looks_neither_for_modules_nor_for_packages_that_it_does_not_use(
    settings: Settings, producer: BatchProducer, store: WindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `RouterApp`: what Faust's search touched, 10 MiB of pages, a forked router shared no longer."""

    def searched(*_: object, **__: object) -> None:
        raise AssertionError("Faust searches")

    monkeypatch.setattr(faust.app.base.venusian, "attach", searched)
    monkeypatch.setattr(faust.app.base, "fixups", searched)
    async with running_router(settings, producer, store):
        await produce_batches(producer, worker_id="a", batches=1)
        await wait_for_requests(store, 4)


async def test_a_record_that_cannot_be_read_is_buried_and_the_next_one_counts(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> None:
    async with running_router(settings, producer, store):
        await producer.send([OutRecord(NAMES.outcomes, b"who/knows", b"\x00 no summary", [("trace", b"1")])])
        await produce_batches(producer, worker_id="a", batches=1)
        await wait_for_requests(store, 4)
        letter = await first_dead_letter(settings)
    headers = dict(letter.headers)
    assert (letter.key, letter.value, headers["trace"]) == (b"who/knows", b"\x00 no summary", b"1")
    assert headers["inferlane-dead-letter-reason"] == b"undecodable"
    assert headers["inferlane-dead-letter-topic"] == NAMES.outcomes.encode()
    assert headers["inferlane-dead-letter-offset"] == b"0"


async def test_summaries_count_after_their_topic_was_recreated(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> None:
    """Guards `_forget_if_recreated`: reports stood still until as many summaries had come again, and all was green."""
    async with running_router(settings, producer, store):
        for number in range(5):
            await produce_batches(producer, worker_id=f"old-{number}", batches=1)
        await wait_for_requests(store, 20)
        await recreate(settings, NAMES.outcomes)
        await produce_batches(producer, worker_id="new", batches=1)
        await wait_for_requests(store, 24)


async def test_a_store_that_forgot_everything_is_filled_again(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> None:
    async with running_router(settings, producer, store):
        await produce_batches(producer, worker_id="a", batches=1)
        await wait_for_requests(store, 4)
        async with connect(settings.store.redis_url) as redis:
            await redis.flushall()
        await produce_batches(producer, worker_id="b", batches=1)
        found = await wait_for_requests(store, 8)
    assert found.requests == 8


async def test_readiness_names_the_parts_and_follows_them(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> None:
    async with running_router(settings, producer, store) as (app, _):

        async def is_ready() -> bool:
            return all(app.ready().values())

        await eventually(is_ready)
        assert app.ready().keys() == {
            "forwarder",
            "publisher",
            "outcome_progress",
            "requests_progress",
            "requests_lane",
            "outcomes",
        }
        assert all(app.live().values())


async def test_a_router_that_has_its_partitions_waits_for_no_clock_before_it_is_ready(
    settings: Settings, producer: BatchProducer, store: WindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `NoTables` and the rebuild at an assignment: each made the start of a stack a second longer."""

    async def sleep_forever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(TableManager, "sleep", sleep_forever)
    seldom = settings.changed(outcome_interval_s=3_600.0)
    async with running_router(seldom, producer, store) as (app, _):

        async def is_ready() -> bool:
            return all(app.ready().values())

        await eventually(is_ready)


async def test_the_data_path_is_drained_when_the_router_stops(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> None:
    async with running_router(settings, producer, store) as (app, forwarder):

        async def is_live() -> bool:
            return all(app.live().values())

        await eventually(is_live)
    assert forwarder.has_drained


@asynccontextmanager
async def router_process(
    settings: Settings, models_dir: Path, program: str = ROUTER_PROGRAM
) -> AsyncIterator[asyncio.subprocess.Process]:
    chosen = settings.environment() | {"INFERLANE_MODELS_DIR": str(models_dir)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env=os.environ | chosen,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    write_version(tmp_path, model="iris", version="v1", write_onnx=write_tiny_onnx, describe=describe_tiny)
    write_model(tmp_path / "iris", description="", default_version="v1", classes=("setosa", "versicolor", "virginica"))
    return tmp_path


async def test_windows_are_the_same_after_the_router_was_killed_and_the_store_emptied(
    settings: Settings, producer: BatchProducer, store: WindowStore, models_dir: Path
) -> None:
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    async with router_process(settings, models_dir):
        await produce_batches(producer, worker_id="a", batches=20)
        now_s = time.time()
        before = await wait_for_requests(store, 80, now_s=now_s)
    async with connect(settings.store.redis_url) as redis:
        await redis.flushall()
    async with router_process(settings, models_dir) as second:
        after = await wait_for_requests(store, 80, now_s=now_s)
        # Nothing is counted twice when the agent reads what the first router had not committed.
        await produce_batches(producer, worker_id="b", batches=1)
        assert (await wait_for_requests(store, 84)).requests == 84
        second.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(second.wait(), timeout=DRAIN_S * 6) == 0
    assert (after.outcomes, after.failures, after.rows) == (before.outcomes, before.failures, before.rows)
    assert after.prediction_distribution == before.prediction_distribution
    assert after.latency_ms.total.p99 == pytest.approx(before.latency_ms.total.p99, rel=0.01)
    assert (after.resources.workers, after.resources.memory_bytes) == (1, before.resources.memory_bytes)
    assert after.age_s == before.age_s


async def test_the_process_ends_with_1_when_its_data_path_dies(settings: Settings, models_dir: Path) -> None:
    async with router_process(settings, models_dir, DYING_PROGRAM) as process:
        assert await asyncio.wait_for(process.wait(), timeout=200) == 1


async def test_what_nobody_is_given_of_transactions_does_not_make_the_outcome_consumer_stuck(
    broker: Broker,
    settings: Settings,
    producer: BatchProducer,
    store: WindowStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards `RouterApp._note_passed`: a marker at the end of the topic got a healthy router killed."""
    if broker.is_embedded:
        pytest.skip("the embedded broker has no transactions; run with --broker apache")
    monkeypatch.setattr(router.faust_app.app, "_PROGRESS_CHECK_S", 0.2)
    settings = settings.changed(stuck_after_s=1.0)
    foreign = confluent_kafka.Producer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "transactional.id": "outcomes"}
    )

    def abort_one() -> None:
        foreign.init_transactions(60)
        foreign.begin_transaction()
        foreign.produce(NAMES.outcomes, b"taken back")
        foreign.flush(60)
        foreign.abort_transaction(60)

    async with running_router(settings, producer, store) as (app, _):
        await produce_batches(producer, worker_id="a", batches=1)
        await wait_for_requests(store, 4)
        await asyncio.to_thread(abort_one)
        partition = TP(NAMES.outcomes, 0)

        async def is_passed() -> bool:
            return await app.consumer.position(partition) == (await app.consumer.highwaters(partition))[partition]

        await eventually(is_passed)

        async def is_idle() -> bool:
            return app.health()["outcomes"].state is ConsumerState.IDLE

        await eventually(is_idle)
        checked = app._progress.note_ends
        looks: list[ConsumerState] = []

        def note_ends(ends: Mapping[int, int], *, now_s: float) -> None:
            checked(ends, now_s=now_s)
            looks.append(app.health()["outcomes"].state)

        monkeypatch.setattr(app._progress, "note_ends", note_ends)

        async def was_looked_at() -> bool:
            # For twice as long as it takes to be called stuck.
            return len(looks) >= 10

        await eventually(was_looked_at)
        assert ConsumerState.STUCK not in looks

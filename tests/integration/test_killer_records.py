"""Records that kill the process that works on them, on a real broker and store: few deaths, and all are answered."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.identity import foreign_key
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.results import Result, Status
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import partitions_of
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from tests.support.brokers import Broker
from tests.support.parts import embedded_store, eventually

# A death is seen when the session of its consumer ends.
pytestmark = pytest.mark.timeout(600)

NAMES = Names()
GOOD = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'
KILLER = b'{"instances": [[666, 666, 666, 666]]}'
MAX_DEATHS = 3
# A worker whose model is killed by the system when it meets a certain row, as by the killer of a memory limit.
WORKER = """
import asyncio, os, signal
import numpy as np
from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.attempts import Isolation, RedisAttemptLog
from inferlane.runtime.kafka.shared_consumer import SharedConsumer
from inferlane.runtime.kafka.topic_feed import TopicFeed
from workers.lane_scheduler import LaneScheduler, Processor, inference_thread
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.config import load_settings
from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.service import run
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.retry import Retrier
from tests.support.fakes.records import make_catalog, make_version
from workers.failure_limit import FailureLimit
from workers.fallback_writer import FallbackWriter
from workers.batch_telemetry import BatchTelemetry
from workers.outcome_summaries import OutcomeRecorder
from workers.pipeline import Pipeline
from workers.shadow_copies import ShadowCopies
from workers.version_lanes import worker_lanes

class Model:
    def __init__(self, version):
        self.version = make_version(version)
    def run(self, inputs):
        if (inputs["input"] == 666).any():
            os.kill(os.getpid(), signal.SIGKILL)
        rows = len(inputs["input"])
        return {"label": np.zeros(rows, np.int64), "probabilities": np.full((rows, 3), 1 / 3, np.float32)}

async def main(stop):
    settings, clock, retrier = load_settings(), SystemClock(), Retrier()
    async with connect(settings.store.redis_url) as redis:
        store = ResultStore(redis, redis_url=settings.store.redis_url, result_ttl_s=600, names=settings.stack.names)
        producer = BatchProducer(settings.kafka)
        await producer.start()
        delivery = Delivery(store, producer, retrier, names=settings.stack.names, max_dead_letter_bytes=1 << 20)
        log = RedisAttemptLog(redis, redis_url=settings.store.redis_url, names=settings.stack.names)
        consumers, parts, processor = {}, {}, None
        if "SHARED" in os.environ:
            consumers = {lane: SharedConsumer(settings.kafka, lane=lane, retrier=retrier) for lane in Lane}
            for consumer in consumers.values():
                await consumer.start()
            processor = Processor(scheduler=LaneScheduler(bulk_share=0.2, clock=clock), executor=inference_thread())
            parts = {
                "isolation": Isolation(),
                "source": lambda lane, **arguments: TopicFeed(settings.kafka, consumers[lane], **arguments),
            }

        def lanes_of(version):
            limit = FailureLimit(settings.worker, model="iris", version=version, clock=clock)
            recorder = OutcomeRecorder(
                model="iris", version=version, worker_id="w", clock=clock, classes=("a", "b", "c")
            )
            pipeline = Pipeline(
                settings.worker, settings.feedback, settings.kafka, settings.stack.names,
                model=Model(version), delivery=delivery,
                telemetry=BatchTelemetry(make_version(version), recorder, limit),
                fallbacks=FallbackWriter(producer, retrier, model="iris", version=version), cancelled=(), clock=clock,
                shadows=ShadowCopies(make_version(version), producer, None, names=settings.stack.names, clock=clock),
                processor=processor,
            )
            return worker_lanes(
                settings.worker, settings.kafka, settings.stack.names, pipeline, limit=limit,
                retrier=retrier, attempt_log=log, **parts
            )

        await asyncio.gather(*(lanes_of(version).run(stop) for version in (["v1", "v2"] if parts else ["v1"])))
        for consumer in consumers.values():
            await consumer.close()
        await producer.close()

run(main)
"""


@dataclass
class Pool:
    """A pool of one worker, which is started again whenever it dies."""

    settings: Settings
    store: ResultStore
    producer: BatchProducer
    # Whether the process serves another version too.
    is_shared: bool = False
    deaths: int = 0
    _process: "asyncio.subprocess.Process | None" = field(default=None)
    _keeping: "asyncio.Task[None] | None" = field(default=None)

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            self._kill()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def check(self) -> None:
        """Fail the test if the worker ended by itself: nobody would work on anything any more."""
        if self._keeping is not None and self._keeping.done():
            self._keeping.result()

    async def _keep(self) -> None:
        while True:
            environment = {**self.settings.environment(), "PATH": "/usr/bin:/bin"}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WORKER, env=environment | ({"SHARED": "1"} if self.is_shared else {})
            )
            code = await self._process.wait()
            assert code == -9, f"the worker ended by itself with {code}"
            self.deaths += 1

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def send(self, lane: Lane, values: Sequence[bytes], *, version: str = "v1") -> list[str]:
        """Send one record for each value; returns what the store keeps their results under."""
        ids = [f"{lane}-{number}" if version == "v1" else f"{version}-{number}" for number in range(len(values))]
        topic = NAMES.work_topic("iris", version, lane)
        await self.producer.send(
            OutRecord(topic, request_id.encode(), value, [("ce_id", request_id.encode())])
            for request_id, value in zip(ids, values, strict=True)
        )
        return [foreign_key(b"", request_id, value) for request_id, value in zip(ids, values, strict=True)]

    async def results(self, keys: Sequence[str]) -> list[Result | None]:
        return await self.store.get(keys)

    async def topic_values(self, topic: str) -> list[tuple[str, str]]:
        """The id and the error code of each record of a topic."""
        found: list[tuple[str, str]] = []
        async for records in read_since(
            self.settings.kafka, await partitions_of(self.settings.kafka, topic), since_s=0.0
        ):
            for record in records:
                headers = dict(record.headers)
                code = headers.get("ce_errorcode") or headers.get("inferlane-dead-letter-reason") or b""
                found.append((headers["ce_id"].decode(), code.decode()))
        return found


@pytest.fixture(params=["a worker of its own", "a shared worker"])
async def pool(broker: Broker, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    async with embedded_store() as redis_url, connect(redis_url) as redis:
        settings = broker.settings(
            ingress_partitions=1,
            work_partitions=2,
            max_batch_rows=8,
            session_timeout_ms=6_000,
            max_deaths=MAX_DEATHS,
            redis_url=redis_url,
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        store = ResultStore(redis, redis_url=redis_url, result_ttl_s=600, names=NAMES)
        pool = Pool(settings, store, producer, is_shared=request.param == "a shared worker")
        pool.start()
        try:
            yield pool
        finally:
            await pool.close()
            await producer.close()


async def test_killers_of_a_lane_where_clients_wait_end_as_dead_letters_and_their_neighbours_are_answered(
    pool: Pool,
) -> None:
    """Guards `Attempts`: taken out, the worker dies of the same record for ever and the rest of its batch waits."""
    values = [GOOD] * 40
    for place in (13, 14):
        values[place] = KILLER
    keys = await pool.send(Lane.REQUESTS, values)
    bulk = await pool.send(Lane.BULK, [GOOD] * 20)
    beside = await pool.send(Lane.REQUESTS, [GOOD] * 20, version="v2") if pool.is_shared else []

    async def all_answered() -> bool:
        pool.check()
        return all(await pool.results([*keys, *beside]))

    await eventually(all_answered, within_s=400)
    results = [result for result in await pool.results(keys) if result is not None]
    assert [place for place, result in enumerate(results) if result.status is Status.FAILED] == [13, 14]
    assert {result.error_code for result in results if result.status is Status.FAILED} == {"fatal_record"}
    # Those up to the limit, one before anything was noted, and one alone, for each of the two.
    assert pool.deaths <= 2 * (MAX_DEATHS + 3)
    assert {result.status for result in await pool.results(beside) if result} <= {Status.SUCCEEDED}
    dead_lettered = await pool.topic_values(NAMES.dead_letters)
    assert set(dead_lettered) == {("requests-13", "fatal_record"), ("requests-14", "fatal_record")}

    async def bulk_answered() -> bool:
        found = dict(await pool.topic_values(NAMES.results))
        return all(f"bulk-{number}" in found for number in range(len(bulk)))

    await eventually(bulk_answered)


async def test_a_killer_of_the_bulk_lane_harms_nobody_else(pool: Pool) -> None:
    values = [GOOD] * 30
    values[21] = KILLER
    await pool.send(Lane.BULK, values)

    async def all_answered() -> bool:
        pool.check()
        return len({name for name, _ in await pool.topic_values(NAMES.results)}) == len(values)

    await eventually(all_answered, within_s=400)
    codes = dict(await pool.topic_values(NAMES.results))
    assert {name: code for name, code in codes.items() if code} == {"bulk-21": "fatal_record"}
    assert pool.deaths <= MAX_DEATHS + 3

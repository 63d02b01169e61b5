"""A version under trial that fails everything, on a real broker: the stable version answers, whoever is killed when."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.identity import foreign_key
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane
from inferlane.contracts.results import Status
from inferlane.contracts.traffic_split import Split
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.rerouting import Rerouted
from tests.support.brokers import Broker
from tests.support.parts import embedded_store, eventually
from tests.support.version_pools import BODY, NAMES, FixedModel, VersionPools

pytestmark = pytest.mark.timeout(400)

REQUESTS = 60
SPLITS = {"iris": Split(model="iris", weights={"v1": 0.5, "v2": 0.5}, fallback="v1")}
# A worker of v2, whose model always fails. With an argument it is killed when its first fallback records are durable,
# before it commits anything.
TRIAL = """
import os, signal, sys
from inferlane.errors import ModelError
from inferlane.runtime.config import load_settings
from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import run
from tests.support.fakes.records import make_version
from workers.batch_telemetry import BatchTelemetry
from workers.failure_limit import FailureLimit
from workers.fallback_writer import FallbackWriter
from workers.outcome_summaries import OutcomeRecorder
from workers.pipeline import Pipeline
from workers.shadow_copies import ShadowCopies
from workers.version_lanes import worker_lanes

class Model:
    version = make_version("v2")
    def run(self, inputs):
        raise ModelError("the weights are not there")

class DyingWriter(FallbackWriter):
    async def write(self, replies):
        told = await super().write(replies)
        os.kill(os.getpid(), signal.SIGKILL)
        return told

async def main(stop):
    settings, clock, retrier = load_settings(), SystemClock(), Retrier()
    writer = DyingWriter if len(sys.argv) > 1 else FallbackWriter
    async with connect(settings.store.redis_url) as redis:
        store = ResultStore(redis, redis_url=settings.store.redis_url, result_ttl_s=600, names=settings.stack.names)
        producer = BatchProducer(settings.kafka)
        await producer.start()
        delivery = Delivery(store, producer, retrier, names=settings.stack.names, max_dead_letter_bytes=1 << 20)
        limit = FailureLimit(settings.worker, model="iris", version="v2", clock=clock)
        recorder = OutcomeRecorder(model="iris", version="v2", worker_id="w", clock=clock, classes=("a", "b", "c"))
        pipeline = Pipeline(
            settings.worker, settings.feedback, settings.kafka, settings.stack.names,
            model=Model(), delivery=delivery, telemetry=BatchTelemetry(Model.version, recorder, limit),
            fallbacks=writer(producer, retrier, model="iris", version="v2"), cancelled=(), clock=clock,
            shadows=ShadowCopies(Model.version, producer, None, names=settings.stack.names, clock=clock),
        )
        lanes = worker_lanes(
            settings.worker, settings.kafka, settings.stack.names, pipeline, limit=limit, retrier=retrier
        )
        await lanes.run(stop)
        await producer.close()

run(main)
"""


@pytest.fixture
async def stack(broker: Broker) -> AsyncIterator[VersionPools]:
    async with embedded_store() as url, connect(url) as redis:
        settings = broker.settings(
            ingress_partitions=1, work_partitions=1, max_batch_rows=8, session_timeout_ms=6_000, redis_url=url
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        yield VersionPools(settings, redis=redis, producer=producer, splits=SPLITS)
        await producer.close()


async def start_trial(settings: Settings, *arguments: str) -> "asyncio.subprocess.Process":
    environment = {**settings.environment(), "PATH": "/usr/bin:/bin"}
    return await asyncio.create_subprocess_exec(sys.executable, "-c", TRIAL, *arguments, env=environment)


async def test_every_request_is_answered_by_the_stable_version_though_the_trial_is_killed_before_its_commit(
    stack: VersionPools,
) -> None:
    """Guards the order of `Pipeline._finish`: a commit before the fallback is durable loses what was in work."""
    ids = await stack.send(REQUESTS)
    keys = [foreign_key(b"", request_id, BODY) for request_id in ids[Lane.REQUESTS]]

    async def all_are_answered() -> bool:
        bulk = {headers["ce_id"].decode() for headers in await stack.headers_on(NAMES.results)}
        return all(await stack.store.get(keys)) and bulk.issuperset(ids[Lane.BULK])

    async with stack.router(), stack.worker(FixedModel("v1")):
        dying = await start_trial(stack.settings, "dies")
        assert await dying.wait() == -9
        trial = await start_trial(stack.settings)
        try:
            await eventually(all_are_answered, within_s=300)
            # Nothing waits for the trial any more: what it failed is committed.
            pools = [
                Subscription(NAMES.work_topic("iris", "v2", lane), NAMES.worker_group("iris", "v2")) for lane in Lane
            ]
            reader = BacklogReader(stack.settings.kafka)

            async def all_is_committed() -> bool:
                return all(position.lag_records == 0 for position in (await reader.read(pools)).values())

            await eventually(all_is_committed)
            await reader.close()
        finally:
            trial.terminate()
            await trial.wait()
    results = [result for result in await stack.store.get(keys) if result is not None]
    assert Counter(result.status for result in results) == {Status.SUCCEEDED: REQUESTS}
    assert {result.version for result in results} == {"v1"}
    assert {result.attempt for result in results} == {1, 2}
    bulk = await stack.headers_on(NAMES.results)
    assert {(headers["ce_status"], headers["ce_modelversion"]) for headers in bulk} == {(b"SUCCEEDED", b"v1")}
    assert await stack.headers_on(NAMES.dead_letters) == []


async def test_what_waits_for_a_version_is_moved_and_answered_once_even_if_it_comes_back(
    stack: VersionPools,
) -> None:
    """Guards `MovedRequests.left`: without it, a version that comes back gives bulk requests a second result."""
    async with stack.router(), stack.worker(FixedModel("v1")):
        ids = await stack.send(REQUESTS)
        v2 = [NAMES.work_topic("iris", "v2", lane) for lane in Lane]
        copy = OutRecord(v2[1], b"c", BODY, [("ce_id", b"copy"), ("ce_rollout", b"r"), ("ce_shadowof", b"v1")])
        pinned = OutRecord(v2[1], b"p", BODY, [("ce_id", b"pinned"), ("ce_modelversion", b"v2")])
        await stack.producer.send([copy, pinned])

        async def bulk_results() -> Counter[str]:
            return Counter(headers["ce_id"].decode() for headers in await stack.headers_on(NAMES.results))

        async def stable_is_done() -> bool:
            waiting = [len(await stack.headers_on(topic)) for topic in v2]
            return len(await bulk_results()) + sum(waiting) == 2 * REQUESTS + 2 and all(waiting)

        await eventually(stable_is_done)
        waiting = [await stack.headers_on(topic) for topic in v2]
        report = await stack.reroute("v2", to_version="v1")
        assert report == Rerouted(moved=sum(map(len, waiting)) - 2, left=2)

        async def all_are_answered() -> bool:
            return len(await bulk_results()) == 2 * REQUESTS

        await eventually(all_are_answered)
        async with stack.worker(FixedModel("v2")):

            async def pinned_is_answered() -> bool:
                return "pinned" in await bulk_results()

            await eventually(pinned_is_answered)
    results = await bulk_results()
    assert results == Counter([*ids[Lane.REQUESTS], *ids[Lane.BULK], "pinned"])

"""A model that fails everything, on a real broker: the pool halts, and after a mend every request is answered."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.identity import foreign_key
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.results import Status
from inferlane.errors import DecodeError, ModelError
from inferlane.runtime.config import Settings
from inferlane.runtime.dead_letter_replay import DeadLetterFilter, FoundDeadLetter, matching_dead_letters, open_replayer
from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.lanes import Lanes
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.shadow_results import ShadowResults
from inferlane.runtime.retry import Retrier, SystemClock
from router.forwarder import Forwarder
from router.request_lanes import router_lanes
from tests.support.brokers import Broker
from tests.support.fakes.records import make_catalog, make_version
from tests.support.parts import embedded_store, eventually
from workers.batch_telemetry import BatchTelemetry
from workers.failure_limit import FailureLimit
from workers.fallback_writer import FallbackWriter
from workers.outcome_summaries import OutcomeRecorder
from workers.pipeline import Pipeline
from workers.shadow_copies import ShadowCopies
from workers.version_lanes import worker_lanes

NAMES = Names()

pytestmark = pytest.mark.timeout(400)

BODY = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'
REQUESTS = 200
WINDOW = 20
IDS = [f"r-{number}" for number in range(REQUESTS)]


def keys(ids: list[str]) -> list[str]:
    """What the store keeps the results of these records under, which name no source."""
    return [foreign_key(b"", request_id, BODY) for request_id in ids]


class Model:
    """Two lines of a session: broken, or answering any rows."""

    version = make_version()

    def __init__(self, *, is_broken: bool) -> None:
        self._is_broken = is_broken

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._is_broken:
            raise ModelError("the weights are not there")
        rows = len(inputs["input"])
        return {"label": np.zeros(rows, np.int64), "probabilities": np.full((rows, 3), 1 / 3, np.float32)}


class NoSplits:
    def get(self, _model: str, /) -> None:
        """Every request goes to the default version."""


class Parts:
    """What router and workers share in this process."""

    def __init__(
        self, settings: Settings, store: ResultStore, shadow_results: ShadowResults, producer: BatchProducer
    ) -> None:
        self.settings = settings
        self.shadow_results = shadow_results
        self.store = store
        self.retrier = Retrier()
        self.producer = producer
        self.delivery = Delivery(
            store, producer, self.retrier, names=Names(), max_dead_letter_bytes=settings.kafka.max_body_bytes
        )

    @asynccontextmanager
    async def worker(self, *, is_broken: bool) -> AsyncIterator[FailureLimit]:
        clock = SystemClock()
        limit = FailureLimit(self.settings.worker, model="iris", version="v1", clock=clock)
        recorder = OutcomeRecorder(
            model="iris", version="v1", worker_id="w", clock=clock, classes=make_version().classes
        )
        pipeline = Pipeline(
            self.settings.worker,
            self.settings.feedback,
            self.settings.kafka,
            self.settings.stack.names,
            model=Model(is_broken=is_broken),  # type: ignore[arg-type]  # of the same shape
            delivery=self.delivery,
            fallbacks=FallbackWriter(self.producer, self.retrier, model="iris", version="v1"),
            shadows=ShadowCopies(make_version(), self.producer, self.shadow_results, names=NAMES, clock=clock),
            telemetry=BatchTelemetry(make_version(), recorder, limit),
            cancelled=(),
            clock=clock,
        )
        async with running(
            worker_lanes(
                self.settings.worker,
                self.settings.kafka,
                self.settings.stack.names,
                pipeline,
                limit=limit,
                retrier=self.retrier,
            )
        ):
            yield limit
        pipeline.close()

    def router(self) -> Lanes:
        forwarder = Forwarder(
            self.settings.stack.names,
            self.settings.webhooks,
            catalog=make_catalog(),
            splits=NoSplits(),
            producer=self.producer,
            delivery=self.delivery,
            retrier=self.retrier,
        )
        return router_lanes(self.settings.kafka, self.settings.stack.names, forwarder, self.retrier)

    async def letters(self) -> list[FoundDeadLetter]:
        selection = DeadLetterFilter(reason="model_error", model="iris", version="v1", since_s=0.0)
        skipped: list[DecodeError] = []
        async with aclosing(
            matching_dead_letters(self.settings.kafka, self.settings.stack.names, selection, on_skipped=skipped.append)
        ) as stream:
            found = [found async for found in stream]
        assert len(skipped) == 1
        return found

    async def all_ended(self, ids: list[str], status: Status) -> bool:
        return all(held is not None and held.status is status for held in await self.store.get(keys(ids)))


@asynccontextmanager
async def running(lanes: Lanes) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lanes.run(stop))
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
async def parts(broker: Broker) -> AsyncIterator[Parts]:
    settings = broker.settings(
        ingress_partitions=1,
        work_partitions=1,
        max_batch_rows=8,
        failure_window_requests=WINDOW,
        failure_pause_s=3_600,
        redis_url="redis://unused",
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
    async with embedded_store() as url, connect(url) as redis:
        settings = settings.changed(redis_url=url)
        producer = BatchProducer(settings.kafka)
        await producer.start()
        store = ResultStore(redis, redis_url=url, result_ttl_s=600, names=NAMES)
        yield Parts(settings, store, ShadowResults(redis, redis_url=url, names=NAMES), producer)
        await producer.close()


async def test_a_broken_model_halts_its_pool_and_a_mend_and_a_replay_answer_every_request(parts: Parts) -> None:
    """Guards `allowance` in `Lanes._fetch` and `reopen` in `Replayer.send`: without the one every request becomes a
    dead letter, without the other those that did stay `FAILED`."""
    work = NAMES.work_topic("iris", "v1", Lane.REQUESTS)
    requests = [
        OutRecord(
            work,
            request_id.encode(),
            BODY,
            [("ce_id", request_id.encode()), ("ce_modelversion", b"v1"), ("ce_model", b"iris")],
        )
        for request_id in IDS
    ]
    # Somebody else's record among the letters stops nobody.
    await parts.producer.send(
        [*requests, OutRecord(NAMES.dead_letters, b"", b"", [("inferlane-dead-letter-reason", b"\xff")])]
    )

    async with parts.worker(is_broken=True) as limit:

        async def is_halted() -> bool:
            return limit.is_halted

        await eventually(is_halted)
    letters = await parts.letters()
    failed = [found.headers.request_id for found in letters]
    assert WINDOW <= len(failed) < REQUESTS / 2
    assert await parts.all_ended(failed, Status.FAILED)
    assert all("ModelError" in found.letter.cause.stack for found in letters)

    async with parts.worker(is_broken=False), running(parts.router()):
        waiting = [request_id for request_id in IDS if request_id not in failed]

        async def waiting_are_answered() -> bool:
            return await parts.all_ended(waiting, Status.SUCCEEDED)

        await eventually(waiting_are_answered)
        async with open_replayer(
            parts.settings.api, parts.settings.kafka, parts.settings.store, parts.settings.stack
        ) as replayer:
            for found in letters:
                sent = await replayer.send(found.letter, to_version=None)
                assert sent.record.topic == NAMES.ingress[Lane.REQUESTS]

        async def all_are_answered() -> bool:
            return await parts.all_ended(IDS, Status.SUCCEEDED)

        await eventually(all_are_answered)
    held = await parts.store.get(keys(failed))
    assert {result.attempt for result in held if result is not None} == {2}

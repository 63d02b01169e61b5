"""A router and workers of this process on a real broker and a real store, with models that a test writes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import numpy as np
from redis.asyncio import Redis

from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.outcomes import OutcomeSummary
from inferlane.contracts.traffic_split import Split
from inferlane.runtime.config import Settings
from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.clients import partitions_of
from inferlane.runtime.kafka.lanes import Lanes
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.shadow_results import ShadowResults
from inferlane.runtime.rerouting import MovedRequests, Rerouted, reroute_backlog
from inferlane.runtime.retry import Retrier, SystemClock
from router.forwarder import Forwarder
from router.request_lanes import router_lanes
from tests.support.fakes.records import make_catalog, make_version
from workers.batch_telemetry import BatchTelemetry
from workers.failure_limit import FailureLimit
from workers.fallback_writer import FallbackWriter
from workers.outcome_summaries import OutcomeRecorder
from workers.pipeline import Pipeline
from workers.rollout_tallies import RolloutTallies
from workers.shadow_copies import ShadowCopies
from workers.version_lanes import worker_lanes

NAMES = Names()
BODY = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'


class FixedModel:
    """Answers every row with one class."""

    def __init__(self, version: str, *, label: int = 0) -> None:
        self.version = make_version(version)
        self._label = label

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs["input"])
        scores = np.zeros((rows, 3), np.float32)
        scores[:, self._label] = 1
        return {"label": np.full(rows, self._label, np.int64), "probabilities": scores}


class VersionPools:
    """Runs a router by `splits`, and workers, for as long as their blocks last."""

    def __init__(
        self, settings: Settings, *, redis: Redis, producer: BatchProducer, splits: Mapping[str, Split]
    ) -> None:
        self.settings = settings
        self.producer = producer
        self.store = ResultStore(redis, redis_url=settings.store.redis_url, result_ttl_s=600, names=NAMES)
        self.shadow_results = ShadowResults(redis, redis_url=settings.store.redis_url, names=NAMES)
        self.splits: Mapping[str, Split] = splits
        self._redis = redis
        self._retrier = Retrier()
        self._delivery = Delivery(
            self.store, producer, self._retrier, names=NAMES, max_dead_letter_bytes=settings.kafka.max_body_bytes
        )
        self._recorders: dict[str, OutcomeRecorder] = {}

    @asynccontextmanager
    async def router(self) -> AsyncIterator[None]:
        forwarder = Forwarder(
            self.settings.stack.names,
            self.settings.webhooks,
            catalog=make_catalog(),
            splits=self.splits,
            producer=self.producer,
            delivery=self._delivery,
            retrier=self._retrier,
        )
        async with _running(router_lanes(self.settings.kafka, self.settings.stack.names, forwarder, self._retrier)):
            yield

    @asynccontextmanager
    async def worker(self, model: FixedModel) -> AsyncIterator[None]:
        names = {"model": "iris", "version": model.version.version}
        clock, tallies = SystemClock(), RolloutTallies(model.version)
        limit = FailureLimit(self.settings.worker, **names, clock=clock)
        recorder = OutcomeRecorder(**names, worker_id="w", clock=clock, classes=model.version.classes, tallies=tallies)
        self._recorders[model.version.version] = recorder
        shadows = ShadowCopies(
            model.version, self.producer, self.shadow_results, names=NAMES, clock=clock, tallies=tallies
        )
        moved = self._moved()
        await moved.read("iris", model.version.version)
        pipeline = Pipeline(
            self.settings.worker,
            self.settings.feedback,
            self.settings.kafka,
            self.settings.stack.names,
            model=model,  # type: ignore[arg-type]  # of the same shape
            delivery=self._delivery,
            fallbacks=FallbackWriter(self.producer, self._retrier, **names),
            shadows=shadows,
            telemetry=BatchTelemetry(model.version, recorder, limit, tallies=tallies),
            cancelled=(),
            clock=clock,
            moved=moved,
        )
        async with _running(
            worker_lanes(
                self.settings.worker,
                self.settings.kafka,
                self.settings.stack.names,
                pipeline,
                limit=limit,
                retrier=self._retrier,
            )
        ):
            yield
        await shadows.close()
        pipeline.close()

    def _moved(self) -> MovedRequests:
        return MovedRequests(self._redis, redis_url=self.settings.store.redis_url, names=NAMES, clock=SystemClock())

    async def reroute(self, version: str, *, to_version: str) -> Rerouted:
        """Move what waits for a version to another one."""
        return await reroute_backlog(
            self.settings.kafka,
            self.settings.stack.names,
            model="iris",
            version=version,
            to_version=to_version,
            producer=self.producer,
            moved=self._moved(),
        )

    def summary(self, version: str) -> OutcomeSummary:
        """What the worker of a version counted since the last call."""
        summary = self._recorders[version].take_summary()
        assert summary is not None
        return summary

    async def send(self, requests: int) -> dict[Lane, list[str]]:
        """Send so many requests to each lane; returns their ids."""
        ids = {lane: [f"{lane}-{number}" for number in range(requests)] for lane in Lane}
        await self.producer.send(
            OutRecord(NAMES.ingress[lane], request_id.encode(), BODY, [("ce_id", request_id.encode())])
            for lane in Lane
            for request_id in ids[lane]
        )
        return ids

    async def headers_on(self, topic: str) -> list[dict[str, bytes]]:
        """The headers of all records of a topic."""
        partitions = await partitions_of(self.settings.kafka, topic)
        batches = read_since(self.settings.kafka, partitions, since_s=0.0)
        return [dict(record.headers) async for records in batches for record in records]


@asynccontextmanager
async def _running(lanes: Lanes) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lanes.run(stop))
        try:
            yield
        finally:
            stop.set()

"""The service of one version in a worker process: its pipeline, lanes, summaries and health."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.attempts import Isolation, RedisAttemptLog
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.metrics.instruments import forget_series
from inferlane.runtime.metrics.worker_metrics import HALTED, MODEL_SIZE, PROVIDER
from inferlane.runtime.redis.cancellations import CancelledRequests
from inferlane.runtime.redis.connection import ping
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.served_versions import ServedVersions
from inferlane.runtime.redis.shadow_results import ShadowResults
from inferlane.runtime.redis.store_probe import StoreProbe
from inferlane.runtime.rerouting import MovedRequests
from inferlane.runtime.service import Background, Startup
from inferlane.runtime.service_clients import open_service_clients
from inferlane.runtime.tracing import enter_tracing
from workers.batch_telemetry import BatchSpans, BatchTelemetry
from workers.failure_limit import FailureLimit
from workers.fallback_writer import FallbackWriter
from workers.outcome_summaries import OutcomeRecorder, Usage, process_usage, report_outcomes
from workers.pipeline import Pipeline
from workers.rollout_tallies import RolloutTallies
from workers.run_limit import RunLimit
from workers.shadow_copies import ShadowCopies
from workers.version_lanes import worker_lanes

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.runtime.config import Settings
    from inferlane.runtime.kafka.topic_feed import TopicFeed
    from inferlane.runtime.retry import Clock, Retrier
    from inferlane.runtime.tracing.spans import Tracing
    from workers.lane_scheduler import Processor
    from workers.model import OnnxModel


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerClients:
    """What the versions of a worker process share: its connections to the broker and the store."""

    redis: "Redis"
    producer: BatchProducer
    cancelled: CancelledRequests
    store_probe: StoreProbe
    tracing: "Tracing | None"
    retrier: "Retrier"
    clock: "Clock"


async def open_clients(
    stack: AsyncExitStack, settings: "Settings", startup: Startup, *, retrier: "Retrier", clock: "Clock"
) -> WorkerClients:
    """Connect; `stack` closes what was opened.

    Raises:
        StoppedEarlyError: the process was told to stop before the broker and the store were available.
    """
    tracing = await enter_tracing(stack, "worker")
    redis, store_probe, producer = await open_service_clients(
        stack, settings.kafka, settings.store.redis_url, settings.stack.names, startup
    )
    await startup.wait_for("store", partial(ping, redis, redis_url=settings.store.redis_url))
    cancelled = CancelledRequests(redis, clock=clock, names=settings.stack.names)
    cancelled.start()
    stack.push_async_callback(cancelled.close)
    return WorkerClients(
        redis=redis,
        producer=producer,
        cancelled=cancelled,
        store_probe=store_probe,
        tracing=tracing,
        retrier=retrier,
        clock=clock,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedParts:
    """What a version shares with others of its process.

    `isolation` lets a suspect record run with nothing beside it, `source` creates the batch source of a topic, and
    `usage` returns what a version uses, from the CPU seconds of its runs.
    """

    processor: "Processor"
    isolation: Isolation
    source: "Callable[..., TopicFeed]"
    usage: Callable[[float], Usage]


class VersionService:
    """Serves one version once; `open` comes first. Used from one event loop."""

    def __init__(
        self,
        settings: "Settings",
        clients: WorkerClients,
        *,
        model: "OnnxModel",
        default_version: str,
        shared: SharedParts | None = None,
    ) -> None:
        """`default_version` is the model's default in the catalog of this worker."""
        self.version = model.version
        self._settings = settings
        self._clients = clients
        self._model = model
        self._default_version = default_version
        self._shared = shared
        self._spent_s: Callable[[], float] = lambda: 0.0
        names = {"model": self.version.model, "version": self.version.version}
        self.limit = FailureLimit(settings.worker, **names, clock=clients.clock)
        self._tallies = RolloutTallies(self.version)
        self._outcomes = OutcomeRecorder(
            **names,
            worker_id=uuid.uuid4().hex,
            clock=clients.clock,
            classes=self.version.classes,
            usage=process_usage if shared is None else lambda: shared.usage(self._spent_s()),
            tallies=self._tallies,
            is_halted=lambda: self.limit.is_halted,
        )
        redis_url, redis = settings.store.redis_url, clients.redis
        self._moved = MovedRequests(redis, redis_url=redis_url, names=settings.stack.names, clock=clients.clock)
        self._served = ServedVersions(redis, redis_url=redis_url, clock=clients.clock, names=settings.stack.names)

    async def open(
        self, stack: AsyncExitStack, until_done: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        """Prepare everything but the fetching; `stack` closes it.

        `until_done` repeats a call for as long as the store is away.
        """
        version = (self.version.model, self.version.version)
        # Before the first fetch: a restarted worker must skip the requests that were moved while it was down.
        await until_done(partial(self._moved.read, *version))
        background = {
            "moved_requests": partial(self._moved.read_for_ever, *version),
            "served_versions": partial(self._served.say_for_ever, *version, default_version=self._default_version),
        }
        pipeline = self._open_pipeline(stack)
        stack.callback(self._forget_gauges)
        self._spent_s = lambda: pipeline.spent_s
        self._background = {
            name: await stack.enter_async_context(Background(work, name=name)) for name, work in background.items()
        }
        settings, clients, shared = self._settings, self._clients, self._shared
        self.lanes = worker_lanes(
            settings.worker,
            settings.kafka,
            settings.stack.names,
            pipeline,
            limit=self.limit,
            retrier=clients.retrier,
            attempt_log=RedisAttemptLog(clients.redis, redis_url=settings.store.redis_url, names=settings.stack.names),
            source=shared.source if shared else None,
            isolation=shared.isolation if shared else None,
        )

    def _forget_gauges(self) -> None:
        names = (self.version.model, self.version.version)
        forget_series((HALTED, MODEL_SIZE), *names)
        for provider in self.version.execution.providers:
            forget_series([PROVIDER], *names, provider)

    def live(self) -> Mapping[str, bool]:
        """Return whether its parts run and its lanes move."""
        return {name: work.is_running for name, work in self._background.items()} | dict(self.lanes.live())

    async def serve(
        self, stop: asyncio.Event, *, guard: Callable[["asyncio.Task[None]"], Any] = lambda task: task
    ) -> None:
        """Serve until `stop` is set or a part fails; then finish the batches under way within the drain deadline.

        `guard` is given the task that fetches.

        Raises:
            Exception: the error of the part that failed.
        """
        lanes = asyncio.create_task(self.lanes.run(stop), name="pipeline")
        guard(lanes)
        reports = asyncio.create_task(
            report_outcomes(
                self._outcomes,
                self._clients.producer,
                topic=self._settings.stack.names.outcomes,
                interval_s=self._settings.outcomes.interval_s,
            )
        )
        try:
            done, _ = await asyncio.wait({lanes, reports}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stop.set()
            await asyncio.wait({lanes}, timeout=self._settings.kafka.drain_deadline_s)
            # The consumers leave their groups before the clients that they use are closed.
            lanes.cancel()
            reports.cancel()
            await asyncio.gather(lanes, reports, return_exceptions=True)

    def _open_pipeline(self, stack: AsyncExitStack) -> Pipeline:
        settings, version, clients = self._settings, self.version, self._clients
        spans = BatchSpans(clients.tracing, version, settings.stack.names) if clients.tracing else None
        store = ResultStore(
            clients.redis,
            redis_url=settings.store.redis_url,
            result_ttl_s=settings.store.result_ttl_s,
            names=settings.stack.names,
        )
        shadows = ShadowCopies(
            version,
            clients.producer,
            ShadowResults(clients.redis, redis_url=settings.store.redis_url, names=settings.stack.names),
            names=settings.stack.names,
            clock=clients.clock,
            tallies=self._tallies,
        )
        stack.push_async_callback(shadows.close)
        pipeline = Pipeline(
            settings.worker,
            settings.feedback,
            settings.kafka,
            settings.stack.names,
            model=self._model,
            delivery=Delivery(
                store,
                clients.producer,
                clients.retrier,
                names=settings.stack.names,
                max_dead_letter_bytes=settings.kafka.max_body_bytes,
                pool=(version.model, version.version),
                classes=version.class_names,
            ),
            shadows=shadows,
            telemetry=BatchTelemetry(version, self._outcomes, self.limit, spans=spans, tallies=self._tallies),
            fallbacks=FallbackWriter(clients.producer, clients.retrier, model=version.model, version=version.version),
            cancelled=clients.cancelled,
            clock=clients.clock,
            moved=self._moved,
            run_limit=RunLimit(settings.worker.trial_run_limit_s, self._model.run_options, failures=self.limit),
            processor=self._shared.processor if self._shared else None,
        )
        stack.callback(pipeline.close)
        return pipeline

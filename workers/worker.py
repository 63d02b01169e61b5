"""One worker: serves one version of a model from its start to its close."""

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.attempts import RedisAttemptLog
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.redis.cancellations import CancelledRequests
from inferlane.runtime.redis.result_store import ResultStore, connect, ping
from inferlane.runtime.redis.shadow_results import ShadowResults
from inferlane.runtime.redis.store_probe import StoreProbe
from inferlane.runtime.redis.versions import ServedVersions
from inferlane.runtime.rerouting import MovedRequests
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import Background, Startup, essential
from inferlane.runtime.tracing import enter_tracing
from workers.batch_telemetry import BatchSpans, BatchTelemetry
from workers.failure_limit import FailureLimit
from workers.fallback_writer import FallbackWriter
from workers.outcome_summaries import OutcomeRecorder, report_outcomes
from workers.pipeline import Pipeline, worker_lanes
from workers.rollout_tallies import RolloutTallies
from workers.run_limit import RunLimit
from workers.shadow_copies import ShadowCopies

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.runtime.config import Settings
    from workers.model import OnnxModel

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clients:
    """The connections of a worker to the broker and the store."""

    redis: "Redis"
    producer: BatchProducer
    cancelled: CancelledRequests
    store_probe: StoreProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tasks:
    """What a worker does until it stops: its lanes, and the summaries that it sends."""

    lanes: "asyncio.Task[None]"
    reports: "asyncio.Task[None]"


class Worker:
    """Fetches the records of one version, infers, delivers the replies and commits. One event loop; runs once."""

    def __init__(self, settings: "Settings", *, model: "OnnxModel", default_version: str) -> None:
        """`default_version` is the model's default in the catalog of this worker."""
        self._settings = settings
        self._model = model
        self._version = model.version
        self._default_version = default_version
        self._clock = SystemClock()
        self._retrier = Retrier()
        self._limit = FailureLimit(
            settings, model=self._version.model, version=self._version.version, clock=self._clock
        )
        self._tallies = RolloutTallies(self._version)
        self._outcomes = OutcomeRecorder(
            model=self._version.model,
            version=self._version.version,
            worker_id=uuid.uuid4().hex,
            clock=self._clock,
            classes=self._version.classes,
            tallies=self._tallies,
            is_halted=lambda: self._limit.is_halted,
        )
        # Closes what was opened, in the reverse order.
        self._open = AsyncExitStack()

    async def run(self, stop: asyncio.Event) -> None:
        """Start, serve until `stop` is set or a part fails, drain, and close.

        Raises:
            ConfigurationError: the ops port is taken.
            StoppedEarlyError: `stop` was set before the broker and the store were available.
            Exception: the error of the part that failed.
        """
        async with self._open:
            tasks = await self._start(stop)
            try:
                await self._serve(tasks)
            finally:
                await self._drain(tasks, stop)
            log.info("worker_stopped", model=self._version.model, version=self._version.version)

    async def _start(self, stop: asyncio.Event) -> _Tasks:
        """Open the ops port, wait for the broker and the store, then fetch."""
        settings, version = self._settings, self._version
        startup = Startup(stop)
        ops = OpsApp(live=startup.live, ready=startup.ready)
        port = await self._open.enter_async_context(serve_ops(ops, settings))
        clients = await self._open_clients(startup)
        moved = MovedRequests(clients.redis, redis_url=settings.redis_url, names=settings.names, clock=self._clock)
        # Before the first fetch: a worker that starts again must pass over what was moved while it was away.
        await startup.wait_for("store", partial(moved.read, version.model, version.version))
        read_moved = partial(moved.read_for_ever, version.model, version.version)
        reading_moved = await self._open.enter_async_context(Background(read_moved, name="moved_requests"))
        pipeline = await self._open_pipeline(clients, moved)
        attempt_log = RedisAttemptLog(clients.redis, redis_url=settings.redis_url, names=settings.names)
        lanes = worker_lanes(settings, pipeline, limit=self._limit, retrier=self._retrier, attempt_log=attempt_log)
        served = ServedVersions(clients.redis, redis_url=settings.redis_url, clock=self._clock, names=settings.names)
        announce = partial(served.say_for_ever, version.model, version.version, default_version=self._default_version)
        announcing = await self._open.enter_async_context(Background(announce, name="served_versions"))
        reports = asyncio.create_task(
            report_outcomes(
                self._outcomes,
                clients.producer,
                topic=settings.names.outcomes,
                interval_s=settings.outcome_interval_s,
            )
        )
        tasks = _Tasks(lanes=essential(asyncio.create_task(lanes.run(stop), name="pipeline")), reports=reports)

        def live() -> Mapping[str, bool]:
            return {
                "pipeline": not tasks.lanes.done(),
                "cancellations": clients.cancelled.is_running,
                "served_versions": announcing.is_running,
                "moved_requests": reading_moved.is_running,
                **lanes.live(),
            }

        def ready() -> Mapping[str, bool]:
            return {
                **live(),
                **lanes.ready(),
                "failure_limit": not self._limit.is_halted,
                "store_writes": clients.store_probe.takes_writes,
            }

        ops.show(live=live, ready=ready, consumers=lanes.health)
        log.info("worker_started", model=version.model, version=version.version, ops_port=port)
        return tasks

    async def _serve(self, tasks: _Tasks) -> None:
        """Return when the lanes have stopped; raise the error of the lanes or of the reports if one of them fails."""
        done, _ = await asyncio.wait({tasks.lanes, tasks.reports}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _drain(self, tasks: _Tasks, stop: asyncio.Event) -> None:
        """Finish the batches under way within the drain deadline, then leave the groups and send the last summary."""
        stop.set()
        await asyncio.wait({tasks.lanes}, timeout=self._settings.drain_deadline_s)
        # The consumers leave their groups before the clients close that their work needs.
        tasks.lanes.cancel()
        tasks.reports.cancel()
        await asyncio.gather(tasks.lanes, tasks.reports, return_exceptions=True)

    async def _open_clients(self, startup: Startup) -> _Clients:
        settings = self._settings
        redis = await self._open.enter_async_context(connect(settings.redis_url))
        store_probe = StoreProbe(redis, redis_url=settings.redis_url, names=settings.names)
        store_probe.start()
        self._open.push_async_callback(store_probe.close)
        producer = BatchProducer(settings)
        await startup.wait_for("broker", producer.start)
        self._open.push_async_callback(producer.close)
        await startup.wait_for("store", partial(ping, redis, redis_url=settings.redis_url))
        cancelled = CancelledRequests(redis, clock=self._clock, names=settings.names)
        cancelled.start()
        self._open.push_async_callback(cancelled.close)
        return _Clients(redis=redis, producer=producer, cancelled=cancelled, store_probe=store_probe)

    async def _open_pipeline(self, clients: _Clients, moved: MovedRequests) -> Pipeline:
        settings, version = self._settings, self._version
        tracing = await enter_tracing(self._open, "worker")
        spans = BatchSpans(tracing, version, settings.names) if tracing else None
        store = ResultStore(
            clients.redis, redis_url=settings.redis_url, result_ttl_s=settings.result_ttl_s, names=settings.names
        )
        shadows = ShadowCopies(
            version,
            clients.producer,
            ShadowResults(clients.redis, redis_url=settings.redis_url, names=settings.names),
            names=settings.names,
            clock=self._clock,
            tallies=self._tallies,
        )
        self._open.push_async_callback(shadows.close)
        pipeline = Pipeline(
            settings,
            model=self._model,
            delivery=Delivery(
                store,
                clients.producer,
                self._retrier,
                names=settings.names,
                max_dead_letter_bytes=settings.max_body_bytes,
                pool=(version.model, version.version),
                classes=version.classes,
            ),
            shadows=shadows,
            telemetry=BatchTelemetry(version, self._outcomes, self._limit, spans=spans, tallies=self._tallies),
            fallbacks=FallbackWriter(clients.producer, self._retrier, model=version.model, version=version.version),
            cancelled=clients.cancelled,
            clock=self._clock,
            moved=moved,
            run_limit=RunLimit(settings.trial_run_limit_s, self._model.run_options, failures=self._limit),
        )
        self._open.callback(pipeline.close)
        return pipeline

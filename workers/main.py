"""One worker process, wired."""

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import UnavailableError
from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.attempts import RedisAttemptLog
from inferlane.runtime.kafka.producing import BatchProducer
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.redis.cancellations import CancelledRequests
from inferlane.runtime.redis.health import StoreProbe
from inferlane.runtime.redis.results import ResultStore, connect, ping
from inferlane.runtime.redis.versions import ServedVersions, VersionFaults
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import Background, Startup, essential
from inferlane.runtime.tracing import enter_tracing
from models.catalog import load_catalog
from workers.batch_telemetry import BatchSpans, BatchTelemetry
from workers.failure_limit import FailureLimit
from workers.outcome_summaries import OutcomeRecorder, report_outcomes
from workers.pipeline import Pipeline, worker_lanes
from workers.trial import load_verified

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from models.catalog import ModelVersion
    from workers.model import OnnxModel

log = structlog.get_logger(__name__)


async def _load(settings: "Settings", version: "ModelVersion", faults: VersionFaults) -> "OnnxModel":
    """Load the model, and say in the store whether that went well: then the API and the dashboard can say why not.

    Raises:
        ConfigurationError: it cannot be served.
    """
    model, name = version.model, version.version
    try:
        onnx = load_verified(version, intra_op_num_threads=settings.intra_op_num_threads, rows=settings.max_batch_rows)
    except Exception as error:
        with suppress(UnavailableError):
            await faults.report(model, name, str(error))
        raise
    with suppress(UnavailableError):
        await faults.clear(model, name)
    return onnx


async def serve(settings: "Settings", stop: asyncio.Event, *, model: str, version: str) -> None:
    """Serve one version until `stop` is set and what was taken is finished.

    Raises:
        UnknownModelError: the catalog has no such model or version.
        ConfigurationError: the model cannot be loaded, or the ops port is taken.
        StoppedEarlyError: `stop` was set while the broker or the store was away.
    """
    known = load_catalog(settings.models_dir, default_model=settings.default_model).model(model)
    served = known.version(version)
    async with connect(settings.redis_url) as redis:
        faults = VersionFaults(redis, redis_url=settings.redis_url, names=settings.names)
        onnx = await _load(settings, served, faults)
    clock = SystemClock()
    recorder = OutcomeRecorder(
        model=model, version=version, worker_id=uuid.uuid4().hex, clock=clock, classes=served.classes
    )
    startup = Startup(stop)
    async with AsyncExitStack() as stack:
        ops = OpsApp(live=startup.live, ready=startup.ready)
        port = await stack.enter_async_context(serve_ops(ops, settings))
        redis = await stack.enter_async_context(connect(settings.redis_url))
        store = ResultStore(
            redis, redis_url=settings.redis_url, result_ttl_s=settings.result_ttl_s, names=settings.names
        )
        store_probe = StoreProbe(redis, redis_url=settings.redis_url, names=settings.names)
        store_probe.start()
        stack.push_async_callback(store_probe.close)
        producer = BatchProducer(settings)
        await startup.wait_for("broker", producer.start)
        stack.push_async_callback(producer.close)
        await startup.wait_for("store", partial(ping, redis, redis_url=settings.redis_url))
        retrier = Retrier()
        cancelled = CancelledRequests(redis, clock=clock, names=settings.names)
        cancelled.start()
        stack.push_async_callback(cancelled.close)
        tracing = await enter_tracing(stack, "worker")
        limit = FailureLimit(settings, model=model, version=version, clock=clock)
        pipeline = Pipeline(
            settings,
            model=onnx,
            delivery=Delivery(
                store,
                producer,
                retrier,
                names=settings.names,
                max_dead_letter_bytes=settings.max_body_bytes,
                pool=(model, version),
            ),
            telemetry=BatchTelemetry(
                served, recorder, limit, spans=BatchSpans(tracing, served, settings.names) if tracing else None
            ),
            cancelled=cancelled,
            clock=clock,
        )
        stack.callback(pipeline.close)
        attempt_log = RedisAttemptLog(redis, redis_url=settings.redis_url, names=settings.names)
        lanes = worker_lanes(settings, pipeline, limit=limit, retrier=retrier, attempt_log=attempt_log)

        def live() -> Mapping[str, bool]:
            return {
                "pipeline": not work.done(),
                "cancellations": cancelled.is_running,
                "served_versions": saying.is_running,
                **lanes.live(),
            }

        reports = asyncio.create_task(
            report_outcomes(recorder, producer, topic=settings.names.outcomes, interval_s=settings.outcome_interval_s)
        )
        present = ServedVersions(redis, redis_url=settings.redis_url, clock=clock, names=settings.names)
        saying = await stack.enter_async_context(
            Background(
                partial(present.say_for_ever, model, version, default_version=known.default_version),
                name="served_versions",
            )
        )
        work = essential(asyncio.create_task(lanes.run(stop), name="pipeline"))
        ops.show(
            live=live,
            ready=lambda: {
                **live(),
                **lanes.ready(),
                "failure_limit": not limit.is_halted,
                "store_writes": store_probe.takes_writes,
            },
            consumers=lanes.health,
        )
        log.info("worker_started", model=model, version=version, ops_port=port)
        try:
            done, _ = await asyncio.wait({work, reports}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stop.set()
            await asyncio.wait({work}, timeout=settings.drain_deadline_s)
            # The consumers leave their groups before the clients go that their work needs.
            work.cancel()
            reports.cancel()
            await asyncio.gather(work, reports, return_exceptions=True)
        log.info("worker_stopped", model=model, version=version)

"""The router process: opens its clients and runs the Faust app and the data path."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.runtime.catalog_table import CatalogFollower, CatalogTable
from inferlane.runtime.dead_letter_replay import Replayer, retry_failed
from inferlane.runtime.delivery import Delivery
from inferlane.runtime.kafka.attempts import RedisAttemptLog
from inferlane.runtime.kafka.broker_connection import PULSE
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.redis.feedback_store import FeedbackStore
from inferlane.runtime.redis.result_store import ResultStore, ping
from inferlane.runtime.redis.versions import ServedVersions, WindowStore
from inferlane.runtime.rerouting import MovedRequests, reroute_backlog
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable
from inferlane.runtime.service import Background, Startup
from inferlane.runtime.service_clients import open_service_clients
from inferlane.runtime.split_table import SplitFollower, SplitTable
from inferlane.runtime.tracing import enter_tracing
from models.live_catalog import LiveCatalog
from models.store_reader import read_store
from router.faust_app.app import RouterApp, run_app
from router.feedback_tally import FeedbackTally
from router.forwarder import Forwarder
from router.request_lanes import router_lanes
from router.rollouts.candidate_watch import CandidateWatch
from router.rollouts.clearance import Clearance
from router.rollouts.decision_writer import RolloutWriter
from router.rollouts.host import RolloutHost
from router.rollouts.outside_reader import OutsideReader
from router.router_telemetry import DeploymentMonitor, ShadowGate
from router.window_publisher import WindowPublisher

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.rollout import RolloutSpec, RolloutState
    from inferlane.runtime.config import Settings

log = structlog.get_logger(__name__)

# How long records of a version that this router does not know wait for the catalogue topic.
_CATCH_UP_S = 2.0


async def serve(settings: "Settings", stop: asyncio.Event) -> None:
    """Route until `stop` is set and the fetched records are forwarded and committed.

    Raises:
        ConfigurationError: the catalog cannot be read, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker and the store were available.
    """
    table = CatalogTable()
    base, lack = read_store(settings.stack.models_dir, default_model=settings.stack.default_model)
    # Requests that were accepted for a version that retires meanwhile are still forwarded.
    catalog = LiveCatalog(base, table, serves_retiring=True)
    splits = SplitTable()
    startup = Startup(stop)
    async with AsyncExitStack() as stack:
        ops = OpsApp(live=startup.live, ready=startup.ready)
        port = await stack.enter_async_context(
            serve_ops(ops, settings.ports, max_body_bytes=settings.kafka.max_body_bytes)
        )
        tracing = await enter_tracing(stack, "router")
        redis, store_probe, producer = await open_service_clients(
            stack, settings.kafka, settings.store.redis_url, settings.stack.names, startup
        )
        follower = SplitFollower(settings.kafka, settings.stack.names, splits)
        await startup.wait_for("topics", follower.start)
        stack.push_async_callback(follower.close)
        catalog_follower = CatalogFollower(settings.kafka, settings.stack.names, table)
        await startup.wait_for("topics", catalog_follower.start)
        stack.push_async_callback(catalog_follower.close)
        catalog.check_serves(lack)
        await startup.wait_for("store", partial(ping, redis, redis_url=settings.store.redis_url))
        results = ResultStore(
            redis,
            redis_url=settings.store.redis_url,
            result_ttl_s=settings.store.result_ttl_s,
            names=settings.stack.names,
        )
        windows = WindowStore(
            redis,
            redis_url=settings.store.redis_url,
            slot_s=settings.outcomes.slot_s,
            keep_s=settings.outcomes.window_s,
            names=settings.stack.names,
        )
        served = ServedVersions(
            redis, redis_url=settings.store.redis_url, clock=SystemClock(), names=settings.stack.names
        )
        following_served = await stack.enter_async_context(Background(served.read_for_ever, name="served_versions"))
        retrier, shadow_gate = Retrier(), ShadowGate()
        forwarder = Forwarder(
            settings.stack.names,
            settings.webhooks,
            catalog=catalog,
            splits=splits,
            served_models=served,
            catch_up=partial(catalog_follower.catch_up, timeout_s=_CATCH_UP_S),
            producer=producer,
            delivery=Delivery(
                results,
                producer,
                retrier,
                names=settings.stack.names,
                max_dead_letter_bytes=settings.kafka.max_body_bytes,
            ),
            retrier=retrier,
            shadow_gate=shadow_gate,
            sticky_records=settings.kafka.sticky_records,
            tracing=tracing,
        )
        window_publisher = WindowPublisher(
            settings.outcomes,
            settings.kafka,
            settings.stack.names,
            store=windows,
            producer=producer,
            retrier=retrier,
            clock=SystemClock(),
        )
        app = RouterApp(
            settings.outcomes,
            settings.kafka,
            settings.stack.names,
            data_path=router_lanes(
                settings.kafka,
                settings.stack.names,
                forwarder,
                retrier,
                attempt_log=RedisAttemptLog(redis, redis_url=settings.store.redis_url, names=settings.stack.names),
            ),
            window_publisher=window_publisher,
        )
        rollouts = RolloutTable()
        rollout_follower = RolloutFollower(settings.kafka, settings.stack.names, rollouts)
        await startup.wait_for("topics", rollout_follower.start)
        stack.push_async_callback(rollout_follower.close)
        moved = MovedRequests(
            redis, redis_url=settings.store.redis_url, names=settings.stack.names, clock=SystemClock()
        )

        async def reroute(spec: "RolloutSpec") -> None:
            await reroute_backlog(
                settings.kafka,
                settings.stack.names,
                model=spec.model,
                version=spec.candidate,
                to_version=spec.stable,
                producer=producer,
                moved=moved,
            )

        replayer = Replayer(
            settings.api,
            settings.kafka,
            settings.store,
            settings.stack,
            store=results,
            producer=producer,
            clock=SystemClock(),
        )

        async def retry(state: "RolloutState") -> int:
            return await retry_failed(
                settings.kafka,
                settings.stack.names,
                replayer,
                rollout=state.id,
                spec=state.spec,
                since_s=state.created_s,
            )

        async def read_to_end() -> None:
            await rollout_follower.read_to_end(timeout_s=_CATCH_UP_S)
            await follower.read_to_end(timeout_s=_CATCH_UP_S)

        host = RolloutHost(
            settings.outcomes,
            outcomes=window_publisher,
            rollouts=rollouts,
            splits=splits,
            writer=RolloutWriter(settings.kafka, settings.stack.names, producer),
            read_to_end=read_to_end,
            clearance=Clearance(reroute=reroute, retry_failed=retry),
            outside=OutsideReader(settings.rollouts, feedback=_feedback_store(settings, redis), clock=SystemClock()),
            watch=CandidateWatch(
                settings.api,
                settings.kafka,
                settings.stack.names,
                catalog=catalog,
                producer=producer,
                results=results,
                clock=SystemClock(),
            ),
            clock=SystemClock(),
        )
        deciding = await stack.enter_async_context(Background(host.run, name="rollouts"))
        monitor = DeploymentMonitor(
            settings.kafka,
            settings.store.redis_url,
            settings.stack.names,
            catalog=catalog,
            splits=splits,
            redis=redis,
            shadow_gate=shadow_gate,
        )
        monitoring = await stack.enter_async_context(Background(monitor.run, name="deployment"))
        tallying = await _tally_feedback(settings, redis, stack)
        ops.show(
            live=lambda: {
                **app.live(),
                "splits": follower.is_running,
                "catalog": catalog_follower.is_running,
                "deployment": monitoring.is_running,
                "rollouts": deciding.is_running and rollout_follower.is_running,
                "served_versions": following_served.is_running,
                **({} if tallying is None else {"feedback": tallying.is_running}),
            },
            ready=lambda: {
                **app.ready(),
                "splits": follower.is_running,
                "broker": PULSE.answers,
                "store_writes": store_probe.takes_writes,
            },
            consumers=app.health,
        )
        log.info("router_started", ops_port=port)
        await run_app(app, stop)
        log.info("router_stopped")


async def _tally_feedback(settings: "Settings", redis: "Redis", stack: AsyncExitStack) -> Background | None:
    """Follow the feedback topic; None where there are no outcome tokens."""
    tokens = settings.feedback.tokens
    if tokens is None:
        return None
    tally = FeedbackTally(
        settings.feedback,
        settings.kafka,
        settings.stack.names,
        tokens=tokens,
        store=_feedback_store(settings, redis),
        clock=SystemClock(),
    )
    return await stack.enter_async_context(Background(tally.run, name="feedback"))


def _feedback_store(settings: "Settings", redis: "Redis") -> FeedbackStore:
    return FeedbackStore(
        redis, redis_url=settings.store.redis_url, names=settings.stack.names, remember_s=settings.feedback.max_age_s
    )

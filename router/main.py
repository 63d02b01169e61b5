"""The router process: opens its clients and runs the Faust app and the data path."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.runtime.delivery import Delivery
from inferlane.runtime.followed_tables import FollowedTables
from inferlane.runtime.kafka.attempts import RedisAttemptLog
from inferlane.runtime.kafka.broker_connection import PULSE
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.redis.connection import ping
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.served_versions import ServedVersions
from inferlane.runtime.redis.window_store import WindowStore
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import Background, Startup
from inferlane.runtime.service_clients import ServiceClients, open_service_clients
from inferlane.runtime.tracing import enter_tracing
from models.live_catalog import LiveCatalog
from models.store_reader import read_store
from router.faust_app.app import RouterApp, run_app
from router.feedback_tally import FeedbackTally
from router.forwarder import Forwarder
from router.request_lanes import router_lanes
from router.rollouts.composition import feedback_store, rollout_host
from router.router_telemetry import DeploymentMonitor, ShadowGate
from router.window_publisher import WindowPublisher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

    from inferlane.runtime.config import Settings
    from inferlane.runtime.tracing.spans import Tracing
    from models.catalog import Catalog

log = structlog.get_logger(__name__)

# How long records of a version that this router does not know wait for the catalogue topic.
_CATCH_UP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connected:
    """What the parts of a router share, connected and read."""

    settings: "Settings"
    clients: ServiceClients
    tables: FollowedTables
    catalog: LiveCatalog
    results: ResultStore
    tracing: "Tracing | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The running parts of a router."""

    connected: _Connected
    app: RouterApp
    # The work beside the data path, by the name of its check.
    beside: "Mapping[str, Background]"

    def live(self) -> "Mapping[str, bool]":
        """Return for each part by name whether it works, or can work again without a restart."""
        tables, running = self.connected.tables, {name: part.is_running for name, part in self.beside.items()}
        return {
            **self.app.live(),
            **running,
            "splits": tables.split_follower.is_running,
            "catalog": tables.catalog_follower.is_running,
            "rollouts": running["rollouts"] and tables.rollout_follower.is_running,
        }

    def ready(self) -> "Mapping[str, bool]":
        """Return for each part that routing needs whether it is available."""
        return {
            **self.app.ready(),
            "splits": self.connected.tables.split_follower.is_running,
            "broker": PULSE.answers,
            "store_writes": self.connected.clients.store_probe.takes_writes,
        }


async def serve(settings: "Settings", stop: asyncio.Event) -> None:
    """Route until `stop` is set and the fetched records are forwarded and committed.

    Raises:
        ConfigurationError: the catalog cannot be read, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker and the store were available.
    """
    base, lack = read_store(settings.stack.models_dir, default_model=settings.stack.default_model)
    startup = Startup(stop)
    async with AsyncExitStack() as stack:
        ops = OpsApp(live=startup.live, ready=startup.ready)
        port = await stack.enter_async_context(
            serve_ops(ops, settings.ports, max_body_bytes=settings.kafka.max_body_bytes)
        )
        connected = await _connect(settings, base, lack, stack, startup)
        parts = await _start(connected, stack)
        ops.show(live=parts.live, ready=parts.ready, consumers=parts.app.health)
        log.info("router_started", ops_port=port)
        await run_app(parts.app, stop)
        log.info("router_stopped")


async def _connect(
    settings: "Settings", base: "Catalog", lack: str, stack: AsyncExitStack, startup: Startup
) -> _Connected:
    """Return when broker and store are available and the tables are read; the stack closes all of it.

    Raises:
        ConfigurationError: the model store lacks models (`lack`), and the catalogue topic has none either.
    """
    names, redis_url = settings.stack.names, settings.store.redis_url
    tracing = await enter_tracing(stack, "router")
    clients = await open_service_clients(stack, settings.kafka, redis_url, names, startup)
    tables = await FollowedTables.open(stack, settings.kafka, names, startup)
    # Requests that were accepted for a version that retires meanwhile are still forwarded.
    catalog = LiveCatalog(base, tables.catalog, serves_retiring=True)
    catalog.check_serves(lack)
    await startup.wait_for("store", partial(ping, clients.redis, redis_url=redis_url))
    results = ResultStore(clients.redis, redis_url=redis_url, result_ttl_s=settings.store.result_ttl_s, names=names)
    return _Connected(
        settings=settings, clients=clients, tables=tables, catalog=catalog, results=results, tracing=tracing
    )


async def _start(connected: _Connected, stack: AsyncExitStack) -> _Parts:
    """Start what works beside the data path; the app, with the data path in it, is started by whoever runs it."""
    settings, redis, tables = connected.settings, connected.clients.redis, connected.tables
    names, redis_url = settings.stack.names, settings.store.redis_url
    served = ServedVersions(redis, redis_url=redis_url, clock=SystemClock(), names=names)
    following_served = await stack.enter_async_context(Background(served.read_for_ever, name="served_versions"))
    retrier, shadow_gate = Retrier(), ShadowGate()
    window_publisher = _window_publisher(connected, retrier)
    forwarder = _forwarder(connected, served=served, retrier=retrier, shadow_gate=shadow_gate)
    data_path = router_lanes(
        settings.kafka,
        names,
        forwarder,
        retrier,
        attempt_log=RedisAttemptLog(redis, redis_url=redis_url, names=names),
    )
    app = RouterApp(settings.outcomes, settings.kafka, names, data_path=data_path, window_publisher=window_publisher)
    host = rollout_host(
        settings,
        connected.clients,
        tables,
        catalog=connected.catalog,
        results=connected.results,
        outcomes=window_publisher,
    )
    monitor = DeploymentMonitor(
        settings.kafka,
        redis_url,
        names,
        catalog=connected.catalog,
        splits=tables.splits,
        redis=redis,
        shadow_gate=shadow_gate,
    )
    beside = {
        "served_versions": following_served,
        "rollouts": await stack.enter_async_context(Background(host.run, name="rollouts")),
        "deployment": await stack.enter_async_context(Background(monitor.run, name="deployment")),
    }
    tally = _feedback_tally(settings, redis)
    if tally is not None:
        beside["feedback"] = await stack.enter_async_context(Background(tally.run, name="feedback"))
    return _Parts(connected=connected, app=app, beside=beside)


def _window_publisher(connected: _Connected, retrier: Retrier) -> WindowPublisher:
    settings, clients = connected.settings, connected.clients
    windows = WindowStore(
        clients.redis,
        redis_url=settings.store.redis_url,
        slot_s=settings.outcomes.slot_s,
        keep_s=settings.outcomes.window_s,
        names=settings.stack.names,
    )
    return WindowPublisher(
        settings.outcomes,
        settings.kafka,
        settings.stack.names,
        store=windows,
        producer=clients.producer,
        retrier=retrier,
        clock=SystemClock(),
    )


def _forwarder(
    connected: _Connected, *, served: ServedVersions, retrier: Retrier, shadow_gate: ShadowGate
) -> Forwarder:
    settings, producer = connected.settings, connected.clients.producer
    delivery = Delivery(
        connected.results,
        producer,
        retrier,
        names=settings.stack.names,
        max_dead_letter_bytes=settings.kafka.max_body_bytes,
    )
    return Forwarder(
        settings.stack.names,
        settings.webhooks,
        catalog=connected.catalog,
        splits=connected.tables.splits,
        served_models=served,
        catch_up=partial(connected.tables.catalog_follower.catch_up, timeout_s=_CATCH_UP_S),
        producer=producer,
        delivery=delivery,
        retrier=retrier,
        shadow_gate=shadow_gate,
        sticky_records=settings.kafka.sticky_records,
        tracing=connected.tracing,
    )


def _feedback_tally(settings: "Settings", redis: "Redis") -> FeedbackTally | None:
    """Return the reader of the feedback topic; None where there are no outcome tokens."""
    tokens = settings.feedback.tokens
    if tokens is None:
        return None
    return FeedbackTally(
        settings.feedback,
        settings.kafka,
        settings.stack.names,
        tokens=tokens,
        store=feedback_store(settings, redis),
        clock=SystemClock(),
    )

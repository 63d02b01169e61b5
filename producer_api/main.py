"""Entry point of the API process: builds every part, serves HTTP, and stops in reverse order."""

import asyncio
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import ConfigurationError, clipped
from inferlane.runtime.followed_tables import FollowedTables
from inferlane.runtime.http.certificate import CertificateFiles, PortCertificate
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.redis.cancellations import Cancellations
from inferlane.runtime.redis.feedback_store import FeedbackStore
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.shadow_results import ShadowResults
from inferlane.runtime.redis.version_faults import VersionFaults
from inferlane.runtime.redis.window_store import WindowStore
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.service import Startup
from inferlane.runtime.service_clients import open_service_clients
from inferlane.runtime.tracing import enter_tracing
from models.live_catalog import LiveCatalog
from models.store_reader import read_store
from producer_api.app import StartingApp, build_app
from producer_api.http.auth import open_key_ring
from producer_api.http.request_body import BodyMemory
from producer_api.http.shared_metrics import SharedMetrics, read_peers
from producer_api.predict.admission import Admission
from producer_api.predict.call import CallReader
from producer_api.predict.endpoint import ResponseBuilder
from producer_api.predict.enqueuer import Enqueuer, FeedbackSender
from producer_api.predict.event_streams import EventStreams
from producer_api.predict.exchange import Exchanges
from producer_api.predict.idempotency import ClaimStore, IdempotentSubmitter
from producer_api.predict.pending import PendingRequests
from producer_api.predict.response_cache import ResponseCache
from producer_api.predict.store_capacity import DeliveredResults, StoreCapacity
from producer_api.predict.submitter import Submitter
from producer_api.predict.telemetry import ResponseMetrics, TracedEnqueuer
from producer_api.routes.dependencies import Services
from producer_api.routes.operations import edge_checks, live_checks, ready_checks

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from models.catalog import Catalog
    from producer_api.grpc_server.grpc_port import GrpcPort
    from producer_api.http.auth import KeyRing

log = structlog.get_logger(__name__)


async def serve(settings: "Settings", stop: asyncio.Event) -> None:
    """Serve the API until `stop` is set, then finish the open calls.

    Raises:
        ConfigurationError: no models, the port is taken, its certificate is not valid, or the API would be open to the
            network with no keys.
        StoppedEarlyError: `stop` was set while the broker or the store was unavailable.
    """
    keys = open_key_ring(settings.api, clock=SystemClock())
    base, lack = read_store(settings.stack.models_dir, default_model=settings.stack.default_model)
    peers = read_peers(settings.api.peers)
    certificate = _certificate(settings)
    startup = Startup(stop)
    app = StartingApp(startup)
    ops = OpsApp(live=startup.live, ready=startup.ready)
    async with AsyncExitStack() as parts, AsyncExitStack() as server:
        grpc = await _enter_grpc(settings, server, startup, keys)
        http = serve_http(
            app,
            settings.ports,
            max_body_bytes=settings.kafka.max_body_bytes,
            host=settings.api.host,
            port=settings.api.port,
            shares_port=bool(peers),
            tls=None if certificate is None else certificate.context,
            timeout_graceful_shutdown=int(settings.kafka.drain_deadline_s),
        )
        port = await server.enter_async_context(http)
        if settings.ports.ops_port:
            # Where processes share the port, the supervisor and `/metrics` must reach this one; and probes and scrapers
            # trust no authority.
            await server.enter_async_context(
                serve_ops(ops, settings.ports, max_body_bytes=settings.kafka.max_body_bytes)
            )
        services = await _start(settings, base, lack, parts, startup)
        certificates = {"certificate": certificate, "grpc_certificate": None if grpc is None else grpc.certificate}
        services = replace(services, edge_checks=partial(edge_checks, keys, certificates))
        app.serve(build_app(services, keys))
        ops.show(live=partial(live_checks, services), ready=partial(ready_checks, services))
        if grpc is not None:
            grpc.serve(services)
        log.info(
            "api_started",
            host=settings.api.host,
            port=port,
            tls=certificate is not None,
            instance=services.pending.instance,
        )
        await stop.wait()
        services.streams.drain()
        if grpc is not None:
            # Beside HTTP's drain, which the end of the block waits for first.
            grpc.drain()
    log.info("api_stopped")


def _certificate(settings: "Settings") -> PortCertificate | None:
    """Return the certificate of the API's port; None without TLS.

    Raises:
        ConfigurationError: it cannot be read, has expired, or is not valid yet.
    """
    files = CertificateFiles.named(
        settings.api.ssl_certfile,
        settings.api.ssl_keyfile,
        ("INFERLANE_API_SSL_CERTFILE", "INFERLANE_API_SSL_KEYFILE"),
    )
    return None if files is None else PortCertificate(files, clock=SystemClock())


async def _enter_grpc(
    settings: "Settings", server: AsyncExitStack, startup: Startup, keys: "KeyRing | None"
) -> "GrpcPort | None":
    """Listen for gRPC if the settings say so.

    Raises:
        ConfigurationError: the port is taken, or the extra `grpc` is not installed, or not as a whole.
    """
    if not settings.api.grpc_port:
        return None
    try:
        from producer_api.grpc_server.grpc_port import grpc_port  # noqa: PLC0415 - loaded only where it is served
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"INFERLANE_GRPC_PORT={settings.api.grpc_port} needs the package {error.name}; install it with "
            "`pip install 'inferlane[grpc]'`, or set INFERLANE_GRPC_PORT=0"
        ) from error
    except Exception as error:  # another package has replaced a library of the extra, which raises what it likes
        raise ConfigurationError(
            f"INFERLANE_GRPC_PORT={settings.api.grpc_port} needs the extra grpc, whose libraries do not fit together: "
            f"{clipped(str(error))}. Install `inferlane[grpc]` into an environment without other clients of gRPC, or "
            "set INFERLANE_GRPC_PORT=0"
        ) from error
    return await server.enter_async_context(
        grpc_port(settings.api, settings.ports, settings.kafka, startup=startup, keys=keys)
    )


async def _start(settings: "Settings", base: "Catalog", lack: str, stack: AsyncExitStack, startup: Startup) -> Services:
    """Start each part once what it depends on is available; the stack stops them in reverse order.

    Raises:
        ConfigurationError: the store lacks models (`lack`), and the catalogue topic has none either.
    """
    clock = SystemClock()
    tracing = await enter_tracing(stack, "api")
    redis, store_probe, producer = await open_service_clients(
        stack, settings.kafka, settings.store.redis_url, settings.stack.names, startup
    )
    store = ResultStore(
        redis, redis_url=settings.store.redis_url, result_ttl_s=settings.store.result_ttl_s, names=settings.stack.names
    )
    tables = await FollowedTables.open(stack, settings.kafka, settings.stack.names, startup)
    splits, catalog = tables.splits, LiveCatalog(base, tables.catalog)
    catalog.check_serves(lack)
    pending = PendingRequests(store, redis, instance=uuid.uuid4().hex, max_waiters=settings.api.max_waiting_requests)
    stack.push_async_callback(pending.close)
    await startup.wait_for("store", pending.start)
    enqueuer = Enqueuer(
        producer, max_pending=settings.api.max_waiting_requests, max_pending_bytes=settings.api.max_pending_bytes
    )
    await enqueuer.start()
    stack.push_async_callback(enqueuer.close)
    admission = Admission(
        settings.api,
        settings.kafka,
        settings.stack.names,
        catalog=catalog,
        splits=splits,
        positions=BacklogReader(settings.kafka),
        clock=clock,
    )
    await admission.start()
    stack.push_async_callback(admission.close)
    store_capacity = StoreCapacity(settings.api, settings.store.redis_url, redis)
    await store_capacity.start()
    stack.push_async_callback(store_capacity.close)
    delivered = DeliveredResults(settings.store, store)
    await delivered.start()
    stack.push_async_callback(delivered.close)
    metrics = ResponseMetrics(catalog)
    cancellations = Cancellations(redis, redis_url=settings.store.redis_url, clock=clock, names=settings.stack.names)
    submitter = Submitter(
        settings.api,
        settings.store,
        settings.stack.names,
        catalog=catalog,
        enqueuer=enqueuer if tracing is None else TracedEnqueuer(enqueuer, tracing),
        pending=pending,
        admission=admission,
        store_capacity=store_capacity,
        cancellations=cancellations,
        clock=clock,
    )
    responses = ResponseBuilder(catalog)
    claims = ClaimStore(redis, redis_url=settings.store.redis_url, names=settings.stack.names)
    idempotent = IdempotentSubmitter(
        settings.api, settings.store, claims=claims, submitter=submitter, store=store, metrics=metrics
    )
    cache = ResponseCache(
        settings.api,
        settings.store.redis_url,
        settings.stack.names,
        redis,
        catalog=catalog,
        splits=splits,
        clock=clock,
        tokens=settings.feedback.tokens,
    )
    stack.push_async_callback(cache.close)
    return Services(
        settings=settings,
        catalog=catalog,
        clock=clock,
        redis=redis,
        store_probe=store_probe,
        store=store,
        pending=pending,
        enqueuer=enqueuer,
        admission=admission,
        store_capacity=store_capacity,
        delivered=delivered,
        reader=CallReader(settings.api, settings.kafka, settings.webhooks, catalog=catalog, splits=splits, clock=clock),
        submitter=submitter,
        exchanges=Exchanges(
            submitter=submitter, idempotent=idempotent, metrics=metrics, delivered=delivered, cache=cache
        ),
        body_memory=BodyMemory(limit_bytes=settings.api.max_pending_bytes),
        tracing=tracing,
        responses=responses,
        exposition=SharedMetrics(read_peers(settings.api.peers)),
        streams=EventStreams(settings.api, waits=submitter.waits, responses=responses, clock=clock),
        splits=splits,
        follower=tables.split_follower,
        rollouts=tables.rollouts,
        rollout_follower=tables.rollout_follower,
        catalog_follower=tables.catalog_follower,
        feedback_store=FeedbackStore(
            redis,
            redis_url=settings.store.redis_url,
            names=settings.stack.names,
            remember_s=settings.feedback.max_age_s,
        ),
        feedback=FeedbackSender(
            producer,
            settings.feedback.tokens,
            topic=settings.stack.names.feedback,
            max_age_s=settings.feedback.max_age_s,
        ),
        shadow_results=ShadowResults(redis, redis_url=settings.store.redis_url, names=settings.stack.names),
        windows=WindowStore(
            redis,
            redis_url=settings.store.redis_url,
            slot_s=settings.outcomes.slot_s,
            keep_s=settings.outcomes.window_s,
            names=settings.stack.names,
        ),
        cancellations=cancellations,
        faults=VersionFaults(redis, redis_url=settings.store.redis_url, names=settings.stack.names),
    )

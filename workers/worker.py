"""One worker: serves one version of a model from its start to its close."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.broker_connection import PULSE
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.version_faults import VersionFaults
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import Startup, essential
from workers.version_loading import load_version
from workers.version_service import VersionService, open_clients

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from workers.model import OnnxModel

log = structlog.get_logger(__name__)


class Worker:
    """Fetches the records of one version, infers, delivers the replies and commits. One event loop; runs once."""

    def __init__(self, settings: "Settings", model: str, version: str) -> None:
        self._settings = settings
        self._name = model, version

    async def run(self, stop: asyncio.Event) -> None:
        """Load the version, serve it until `stop` is set or a part fails, drain, and close.

        Raises:
            UnknownModelError: the catalog has no such model or version.
            ConfigurationError: the version cannot be served, or the ops port is taken.
            StoppedEarlyError: `stop` was set before the broker and the store were available.
            Exception: the error of the part that failed.
        """
        settings = self._settings
        async with AsyncExitStack() as stack:
            startup = Startup(stop)
            ops = OpsApp(live=startup.live, ready=startup.ready)
            port = await stack.enter_async_context(
                serve_ops(ops, settings.ports, max_body_bytes=settings.kafka.max_body_bytes)
            )
            onnx, default_version = await startup.wait_for("version", self._load)
            clients = await open_clients(stack, settings, startup, retrier=Retrier(), clock=SystemClock())
            service = VersionService(settings, clients, model=onnx, default_version=default_version)
            await service.open(stack, partial(startup.wait_for, "store"))
            fetching: list[asyncio.Task[None]] = []

            def live() -> Mapping[str, bool]:
                return {
                    "pipeline": not any(task.done() for task in fetching),
                    "cancellations": clients.cancelled.is_running,
                    **service.live(),
                }

            def ready() -> Mapping[str, bool]:
                return {
                    **live(),
                    **service.lanes.ready(),
                    "failure_limit": not service.limit.is_halted,
                    "broker": PULSE.answers,
                    "store_writes": clients.store_probe.takes_writes,
                }

            ops.show(live=live, ready=ready, consumers=service.lanes.health)
            model, version = self._name
            log.info("worker_started", model=model, version=version, ops_port=port)
            await service.serve(stop, guard=lambda task: fetching.append(essential(task)))
        log.info("worker_stopped", model=model, version=version)

    async def _load(self) -> "tuple[OnnxModel, str]":
        """Load the version and report to the store whether that succeeded: the API and the dashboard show the reason.

        Returns it with the default version of its model.
        """
        settings = self._settings
        async with connect(settings.store.redis_url) as redis:
            faults = VersionFaults(redis, redis_url=settings.store.redis_url, names=settings.stack.names)
            try:
                return await load_version(settings.kafka, settings.stack, settings.worker, self._name, faults=faults)
            except UnavailableError:
                # Nothing is wrong with the version.
                raise
            except Exception as error:
                with suppress(UnavailableError):
                    await faults.report(*self._name, str(error))
                raise

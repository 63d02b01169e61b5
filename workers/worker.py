"""One worker: serves one version of a model from its start to its close."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.runtime.kafka.broker_connection import PULSE
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import Startup, essential
from workers.version_service import VersionService, open_clients

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from workers.model import OnnxModel

log = structlog.get_logger(__name__)


class Worker:
    """Fetches the records of one version, infers, delivers the replies and commits. One event loop; runs once."""

    def __init__(self, settings: "Settings", *, model: "OnnxModel", default_version: str) -> None:
        """`default_version` is the model's default in the catalog of this worker."""
        self._settings = settings
        self._model = model
        self._default_version = default_version

    async def run(self, stop: asyncio.Event) -> None:
        """Start, serve until `stop` is set or a part fails, drain, and close.

        Raises:
            ConfigurationError: the ops port is taken.
            StoppedEarlyError: `stop` was set before the broker and the store were available.
            Exception: the error of the part that failed.
        """
        settings, version = self._settings, self._model.version
        async with AsyncExitStack() as stack:
            startup = Startup(stop)
            ops = OpsApp(live=startup.live, ready=startup.ready)
            port = await stack.enter_async_context(
                serve_ops(ops, settings.ports, max_body_bytes=settings.kafka.max_body_bytes)
            )
            clients = await open_clients(stack, settings, startup, retrier=Retrier(), clock=SystemClock())
            service = VersionService(settings, clients, model=self._model, default_version=self._default_version)
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
            log.info("worker_started", model=version.model, version=version.version, ops_port=port)
            await service.serve(stop, guard=lambda task: fetching.append(essential(task)))
        log.info("worker_stopped", model=version.model, version=version.version)

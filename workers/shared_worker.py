"""One process that serves many versions: one consumer for each lane, one scheduler, one thread for long runs."""

import asyncio
import math
import threading
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from inferlane.contracts.naming import Lane
from inferlane.errors import ConfigurationError
from inferlane.runtime.kafka.attempts import Isolation
from inferlane.runtime.kafka.broker_connection import PULSE
from inferlane.runtime.kafka.lag import ConsumerHealth
from inferlane.runtime.kafka.shared_consumer import SharedConsumer
from inferlane.runtime.kafka.topic_feed import TopicFeed
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import Startup, essential
from models.catalog import Catalog
from models.store_reader import load_catalog
from workers.hosted_version import HostedVersion, HostState, HostStatus
from workers.lane_scheduler import LaneScheduler, Processor, inference_thread
from workers.outcome_summaries import Usage, process_usage
from workers.version_service import SharedParts, WorkerClients, open_clients

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from workers.roster import Roster, VersionName

log = structlog.get_logger(__name__)

# The most versions that load at once: one reads files while another computes. More slow down the versions that serve.
_LOADS_AT_ONCE = 2


class SharedWorker:
    """Serves the versions of a roster, which may change. One event loop; runs once."""

    def __init__(self, settings: "Settings", roster: "Roster") -> None:
        self._settings = settings
        self._roster = roster
        self._hosts: dict[VersionName, HostedVersion] = {}
        self._tasks: dict[VersionName, asyncio.Task[None]] = {}
        self._loading = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._store: Catalog | None = None
        self._store_read_s = -math.inf
        self._reading_store = threading.Lock()
        self._has_settled = False

    async def run(self, stop: asyncio.Event) -> None:
        """Start, serve until `stop` is set or a part fails, drain, and close.

        Raises:
            ConfigurationError: the ops port is taken, or the roster cannot be read.
            StoppedEarlyError: `stop` was set before the broker and the store were available.
            Exception: the error of the part that failed.
        """
        settings, clock, retrier = self._settings, SystemClock(), Retrier()
        async with AsyncExitStack() as stack:
            startup = Startup(stop)
            ops = OpsApp(live=startup.live, ready=startup.ready)
            port = await stack.enter_async_context(
                serve_ops(ops, settings.ports, max_body_bytes=settings.kafka.max_body_bytes)
            )
            clients = await open_clients(stack, settings, startup, retrier=retrier, clock=clock)
            consumers = {lane: SharedConsumer(settings.kafka, lane=lane, retrier=retrier) for lane in Lane}
            for consumer in consumers.values():
                await startup.wait_for("broker", consumer.start)
                stack.push_async_callback(consumer.close)
            executor = inference_thread()
            stack.callback(executor.shutdown, wait=False)
            shared = SharedParts(
                processor=Processor(
                    scheduler=LaneScheduler(bulk_share=settings.worker.bulk_share, clock=clock),
                    executor=executor,
                ),
                isolation=Isolation(),
                source=partial(_feed, settings, consumers),
                usage=self._usage_of_one,
            )
            ops.show(
                live=partial(self._live, clients),
                ready=partial(self._ready, clients),
                consumers=self._health,
                versions=self._statuses,
            )
            log.info("shared_worker_started", ops_port=port)
            try:
                async for names in self._roster.follow(stop):
                    self._settle(names, clients, shared)
            finally:
                await self._stop_all()
        log.info("shared_worker_stopped")

    def _settle(self, names: "frozenset[VersionName]", clients: WorkerClients, shared: SharedParts) -> None:
        """Start versions that were added, and stop versions that were removed."""
        there = {name for name, host in self._hosts.items() if not host.is_stopping()}
        for name in there - names:
            self._hosts[name].stop()
        for name in sorted(names - there):
            host = HostedVersion(
                name, self._settings, clients, shared, read_store=self._read_store, loading=self._loading
            )
            before = self._tasks.get(name)
            self._hosts[name] = host
            task = asyncio.create_task(_run_after(before, host), name=f"host:{'/'.join(name)}")
            self._tasks[name] = essential(task, may_end=host.is_stopping)
            task.add_done_callback(partial(self._forget, host))

    def _forget(self, host: HostedVersion, task: "asyncio.Task[None]") -> None:
        if self._hosts.get(host.name) is host:
            del self._hosts[host.name]
        if self._tasks.get(host.name) is task:
            del self._tasks[host.name]

    async def _stop_all(self) -> None:
        """Finish the batches under way within the drain deadline, and stop every version."""
        for host in self._hosts.values():
            host.stop()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _read_store(self, since_s: float) -> Catalog | None:
        """Return the model store as it was read at or after `since_s` on the monotonic clock; None if it is unreadable.

        Versions that are added together, or fail together, share one read. Safe for threads.
        """
        with self._reading_store:
            if self._store is None or self._store_read_s < since_s:
                settings = self._settings
                self._store, self._store_read_s = None, time.monotonic()
                try:
                    self._store = load_catalog(settings.stack.models_dir, default_model=settings.stack.default_model)
                except ConfigurationError:
                    return None
            return self._store

    def _usage_of_one(self, spent_s: float) -> Usage:
        """Return the CPU time of a version's own runs, and its share of the memory."""
        whole = process_usage()
        return Usage(cpu_s=spent_s, memory_bytes=whole.memory_bytes // max(1, len(self._hosts)))

    def _live(self, clients: WorkerClients) -> Mapping[str, bool]:
        checks = {"cancellations": clients.cancelled.is_running}
        for label, host in self._by_label().items():
            if host.service is not None:
                checks |= {f"{label} {name}": holds for name, holds in host.service.live().items()}
        return checks

    def _ready(self, clients: WorkerClients) -> Mapping[str, bool]:
        # Later versions join a ready process; one that cannot be served is no reason to replace the process.
        self._has_settled = self._has_settled or all(host.settled.is_set() for host in self._hosts.values())
        return {
            **self._live(clients),
            "versions_settled": self._has_settled,
            "broker": PULSE.answers,
            "store_writes": clients.store_probe.takes_writes,
        }

    def _health(self) -> Mapping[str, ConsumerHealth]:
        return {
            f"{label} {lane}": health
            for label, host in self._by_label().items()
            if host.service is not None
            for lane, health in host.service.lanes.health().items()
        }

    def _statuses(self) -> Mapping[str, HostStatus]:
        return {
            label: host.status for label, host in self._by_label().items() if host.status.state is not HostState.STOPPED
        }

    def _by_label(self) -> Mapping[str, HostedVersion]:
        return {"/".join(name): host for name, host in sorted(self._hosts.items())}


async def _run_after(before: "asyncio.Task[None] | None", host: HostedVersion) -> None:
    """Run a version once an earlier stay of it in this process has ended."""
    if before is not None:
        await asyncio.wait([before])
    await host.run()


def _feed(settings: "Settings", consumers: Mapping[Lane, SharedConsumer], *, lane: Lane, **arguments: Any) -> TopicFeed:
    return TopicFeed(settings.kafka, consumers[lane], **arguments)

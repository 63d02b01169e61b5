"""Doing a fault to a part that runs, and leaving it to recover."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from control_plane.local.child_process import Child
from control_plane.local.managed_process import ManagedProcess, StartError
from control_plane.local.pools import worker_pool
from inferlane.contracts.naming import Lane
from tests.faults.harness.foreign_senders import ForeignSenders
from tests.faults.harness.loading import Load
from tests.faults.harness.plan import Fault, Plan
from tests.faults.harness.questions import IDLE_VERSION, MODEL, VERSIONS
from tests.faults.harness.store import empty_store, full_store
from tests.faults.harness.system import SESSION_TIMEOUT_MS, WORKER_POOLS, System
from tests.faults.harness.topic_faults import add_partition, delete_topics, make_topics_again, set_back_offsets
from tests.support.brokers import ApacheCluster, Broker
from tests.support.brokers.embedded import EmbeddedBroker

log = structlog.get_logger(__name__)

# Around the session timeout: shorter is a hiccup, longer makes the group go on without the frozen member,
# which comes back not knowing.
_FREEZE_S = (0.5, 1.4 * SESSION_TIMEOUT_MS / 1000)
_FULL_S = (0.5, 3.0)
_BREATH_S = (0.2, 1.5)
# The embedded broker forgets a member that it does not hear, and so must not sleep past the session.
_BROKER_FREEZE_S = (0.5, 5.0)
# How often the next fault waits until everything has recovered; else faults meet what still recovers.
_LETS_RECOVER = 0.5
_SECOND_FAULT = 0.3
# Deaths of one record before it is tried alone, and those of one more.
_GROWS_WITHIN_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A fault that was done, and how many accepted requests had no answer at that moment."""

    fault: Fault
    target: str
    at_s: float
    pending: int


class Injector:
    """Does faults one after the other. One event loop."""

    def __init__(self, plan: Plan, system: System, broker: Broker, load: Load) -> None:
        self._plan = plan
        self._system = system
        self._cluster = broker if isinstance(broker, ApacheCluster) else None
        self._load = load
        self._draw = random.Random(f"{plan.seed} faults")
        self._senders = ForeignSenders(system, load, self._draw)
        self._embedded = broker if isinstance(broker, EmbeddedBroker) else None
        self.done: list[Injected] = []
        self._acts: Mapping[Fault, Callable[[], Awaitable[None]]] = {
            Fault.KILL_API: lambda: self._kill(Fault.KILL_API, "api"),
            Fault.KILL_ROUTER: lambda: self._kill(Fault.KILL_ROUTER, "router"),
            Fault.KILL_WORKER: lambda: self._kill(Fault.KILL_WORKER, *WORKER_POOLS),
            Fault.FREEZE_API: lambda: self._freeze(Fault.FREEZE_API, "api"),
            Fault.FREEZE_ROUTER: lambda: self._freeze(Fault.FREEZE_ROUTER, "router"),
            Fault.FREEZE_WORKER: lambda: self._freeze(Fault.FREEZE_WORKER, *WORKER_POOLS),
            Fault.FREEZE_STORE: lambda: self._freeze(Fault.FREEZE_STORE, "store"),
            Fault.RESTART_STORE: lambda: self._kill(Fault.RESTART_STORE, "store"),
            Fault.FILL_STORE: self._fill_store,
            Fault.CUT_CLIENT: self._cut_client,
            Fault.RESIZE_POOL: self._resize_pool,
            Fault.KILL_NODE: self._kill_node,
            Fault.RESTART_NODE: self._restart_node,
            Fault.FREEZE_NODE: self._freeze_node,
            Fault.FREEZE_BROKER: self._freeze_broker,
            Fault.COMPRESSED: lambda: self._send(Fault.COMPRESSED, self._senders.send_compressed),
            Fault.OVERSIZED: lambda: self._send(Fault.OVERSIZED, self._senders.send_oversized),
            Fault.KILLER: lambda: self._send(Fault.KILLER, self._senders.send_killer),
            Fault.VANISH: lambda: self._send(Fault.VANISH, self._senders.vanish),
            Fault.ADD_PARTITIONS: self._add_partitions,
            Fault.DELETE_TOPIC: self._delete_topic,
            Fault.RESET_OFFSETS: self._reset_offsets,
            Fault.FLUSH_STORE: self._flush_store,
        }

    @property
    def has_nodes(self) -> bool:
        """Whether the broker survives the death of a node."""
        return self._cluster is not None

    async def inject(self, fault: Fault) -> None:
        """Do the fault to a part that works, and return when the next one may come.

        Raises:
            TimeoutError: what an earlier fault hit does not come back.
        """
        await self._acts[fault]()
        if self._draw.random() < _LETS_RECOVER:
            await self._system.all_ready()
        else:
            await self._breathe(_BREATH_S)

    async def _kill(self, fault: Fault, *pools: str) -> None:
        managed = await self._pick(*pools)
        self._note(fault, managed.spec.name)
        self._system.kill(managed)

    async def _freeze(self, fault: Fault, *pools: str) -> None:
        managed = await self._pick(*pools)
        with _frozen(managed.child) as is_frozen:
            if is_frozen:
                self._note(fault, managed.spec.name)
                await self._breathe(_FREEZE_S)
                if self._draw.random() < _SECOND_FAULT:
                    await self._kill_another(managed)

    async def _pick(self, *pools: str) -> ManagedProcess:
        """A process that works at a moment when answers are owed, and no later: do not await before the fault."""
        while True:
            managed = await self._system.pick(self._draw, *pools)
            await self._load.in_flight()
            if managed in self._system.ready(*pools):
                return managed

    async def _kill_another(self, frozen: ManagedProcess) -> None:
        """SIGKILL of one process while another one is frozen: what is left must do."""
        candidates = [
            managed for managed in self._system.ready("api", "router", *WORKER_POOLS) if managed is not frozen
        ]
        if candidates:
            managed = self._draw.choice(candidates)
            kinds = {"api": Fault.KILL_API, "router": Fault.KILL_ROUTER}
            self._note(kinds.get(managed.spec.name.split("-")[0], Fault.KILL_WORKER), managed.spec.name)
            self._system.kill(managed)
            await self._breathe(_BREATH_S)

    async def _fill_store(self) -> None:
        await self._system.pick(self._draw, "store")
        async with full_store(self._system.settings.store.redis_url):
            self._note(Fault.FILL_STORE, "store")
            await self._breathe(_FULL_S)

    async def _cut_client(self) -> None:
        await self._load.cut_client()
        self._note(Fault.CUT_CLIENT, "client")

    async def _resize_pool(self) -> None:
        # A process that starts must find what it needs: a start that fails is reported to whoever asked for it.
        await self._system.all_ready()
        pool = self._draw.choice(WORKER_POOLS)
        size = sum(1 for name, _ in self._system.supervisor.processes() if name == pool)
        sizes = [other for other in range(1, self._plan.max_workers + 1) if other != size]
        target = self._draw.choice(sizes)
        self._note(Fault.RESIZE_POOL, f"{pool}: {size} to {target}")
        await self._grow(pool, target)

    async def _kill_node(self) -> None:
        cluster, node = self._pick_node()
        self._note(Fault.KILL_NODE, f"node {node}")
        await asyncio.to_thread(cluster.kill, node)
        await self._breathe(_FREEZE_S)
        await self._bring_back(cluster, node)

    async def _restart_node(self) -> None:
        cluster, node = self._pick_node()
        self._note(Fault.RESTART_NODE, f"node {node}")
        await asyncio.to_thread(cluster.stop, node)
        await self._bring_back(cluster, node)

    async def _freeze_node(self) -> None:
        cluster, node = self._pick_node()
        self._note(Fault.FREEZE_NODE, f"node {node}")
        await asyncio.to_thread(cluster.pause, node)
        try:
            await self._breathe(_FREEZE_S)
        finally:
            await asyncio.to_thread(cluster.resume, node)
        await asyncio.to_thread(cluster.wait_in_sync)

    async def _freeze_broker(self) -> None:
        if self._embedded is None:
            raise AssertionError("a fault of the embedded broker was scheduled on another one")
        await self._load.in_flight()
        self._note(Fault.FREEZE_BROKER, "broker")
        self._embedded.pause()
        try:
            await self._breathe(_BROKER_FREEZE_S)
        finally:
            self._embedded.resume()

    async def _send(self, fault: Fault, send: Callable[[], Awaitable[str]]) -> None:
        self._note(fault, await send())

    async def _add_partitions(self) -> None:
        version = self._draw.choice(VERSIONS)
        names = self._system.settings.stack.names
        topics = [*names.ingress.values(), *(names.work_topic(MODEL, version, lane) for lane in Lane)]
        topic = self._draw.choice(topics)
        self._note(Fault.ADD_PARTITIONS, f"{topic}: {await add_partition(self._system.settings, topic)}")

    async def _delete_topic(self) -> None:
        """Delete a topic that has records; what was sent to it must be told so, and nobody else may notice."""
        settings = self._system.settings
        topics = [settings.stack.names.work_topic(MODEL, IDLE_VERSION, lane) for lane in Lane]
        await self._senders.send_to_idle_version()
        await delete_topics(settings, topics)
        self._note(Fault.DELETE_TOPIC, topics[0])
        await self._senders.send_to_idle_version()
        await self._breathe(_FREEZE_S)
        await make_topics_again(settings, [(MODEL, IDLE_VERSION)])

    async def _reset_offsets(self) -> None:
        await self._system.all_ready()
        version = self._draw.choice(VERSIONS)
        pool = worker_pool(MODEL, version)
        size = sum(1 for name, _ in self._system.supervisor.processes() if name == pool)
        self._note(Fault.RESET_OFFSETS, pool)
        await self._system.supervisor.scale(pool, 0)
        try:
            await set_back_offsets(self._system.settings, MODEL, version)
        finally:
            await self._grow(pool, size)

    async def _grow(self, pool: str, size: int) -> None:
        """Scale until it works: a record that kills may wait for the first worker, before that is ready.

        Raises:
            StartError: it does not work however often it is tried.
        """
        for _ in range(_GROWS_WITHIN_TRIES):
            with suppress(StartError):
                return await self._system.supervisor.scale(pool, size)
        return await self._system.supervisor.scale(pool, size)

    async def _flush_store(self) -> None:
        await self._system.pick(self._draw, "store")
        self._note(Fault.FLUSH_STORE, "store")
        await empty_store(self._system.settings.store.redis_url)
        self._load.ledger.forget(at_s=time.time())

    async def _bring_back(self, cluster: ApacheCluster, node: int) -> None:
        """Two of three replicas must have a record: the next node may fail only when all three are level."""
        await asyncio.to_thread(cluster.start, node)
        await asyncio.to_thread(cluster.wait_in_sync)

    def _pick_node(self) -> tuple[ApacheCluster, int]:
        if self._cluster is None:
            raise AssertionError("a node fault was scheduled on a broker that has no nodes")
        return self._cluster, self._draw.choice(self._cluster.nodes)

    def _note(self, fault: Fault, target: str) -> None:
        injected = Injected(fault=fault, target=target, at_s=time.time(), pending=self._load.ledger.pending)
        self.done.append(injected)
        log.info("fault", number=len(self.done), fault=str(fault), target=target, pending=injected.pending)

    async def _breathe(self, between_s: tuple[float, float]) -> None:
        await asyncio.sleep(self._draw.uniform(*between_s))


@contextmanager
def _frozen(child: Child | None) -> Iterator[bool]:
    """SIGSTOP for as long as the block runs; yields whether there was a process. Linux: a pid may be used again."""
    try:
        handle = os.pidfd_open(child.pid) if child is not None else None
    except ProcessLookupError:
        handle = None
    if handle is None:
        yield False
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
        yield True
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        os.close(handle)

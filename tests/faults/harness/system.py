"""The system under test: real processes under the project's own supervisor, on a broker that the caller brings."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from control_plane.local.child_process import ProcessSpec
from control_plane.local.embedded_parts import store_answers, store_argv
from control_plane.local.managed_process import Backoff, ManagedProcess, State
from control_plane.local.pools import worker_pool
from control_plane.local.readiness import is_live, is_ready
from control_plane.local.supervisor import Pool, Supervisor
from control_plane.topic_admin import create_topics
from inferlane.runtime.config import Settings, setting_fields
from inferlane.runtime.runfile import base_url
from tests.faults.harness.plan import Plan
from tests.faults.harness.questions import IDLE_VERSION, MODEL, VERSIONS
from tests.support.brokers import Broker
from tests.support.brokers.processes import free_ports

# A process that is killed again and again is not one that fails by itself: it comes back at once.
_BACKOFF = Backoff(ceiling_s=1.0)
_READY_WITHIN_S = 300.0
_STORE_MAXMEMORY_MIB = 256
_HOST = "127.0.0.1"
# A member that was killed holds its partitions for this long. The default, for what a fault costs here is what it costs
# a user.
SESSION_TIMEOUT_MS: int = setting_fields()["session_timeout_ms"].default
# The same rank has nothing to wait for in each other.
_STORE, _ROUTERS, _WORKERS, _APIS = range(4)

_WORKER = "tests.faults.harness.killable_worker"
WORKER_POOLS = tuple(worker_pool(MODEL, version) for version in VERSIONS)


class System:
    """The running processes; `running_system` makes it."""

    def __init__(self, settings: "Settings", environment: Mapping[str, str], plan: Plan) -> None:
        self.settings = settings
        self._environment = environment
        self._changed = asyncio.Event()
        self.supervisor = Supervisor(self._pools(plan), backoff=_BACKOFF, on_change=self._changed.set)
        # Killed, and perhaps not yet known as dead to their supervisor.
        self._dead: set[int] = set()

    def ready(self, *pools: str) -> list[ManagedProcess]:
        """The processes of these pools that work now."""
        return [
            managed
            for name, managed in self.supervisor.processes()
            if name in pools and managed.state is State.READY and managed.child and managed.child.pid not in self._dead
        ]

    def api_url(self, draw: random.Random) -> str:
        """Some API that is thought to be ready, or any when none is."""
        apis = self.ready("api") or [managed for name, managed in self.supervisor.processes() if name == "api"]
        return draw.choice(apis).spec.ops_url

    async def pick(self, draw: random.Random, *pools: str) -> ManagedProcess:
        """A process of these pools that works now; waits for one.

        Raises:
            TimeoutError: none was ready for minutes: something does not come back.
        """
        await self.until(lambda: bool(self.ready(*pools)), f"a process of {', '.join(pools)} is ready")
        return draw.choice(self.ready(*pools))

    async def all_ready(self) -> None:
        """Return when every process works.

        Raises:
            TimeoutError: one does not come back.
        """

        def are_ready() -> bool:
            managed = list(self.supervisor.processes())
            return len(self.ready(*{name for name, _ in managed})) == len(managed)

        await self.until(are_ready, "every process is ready again")

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Return when it is so, asked after each change of a process.

        Raises:
            TimeoutError: it is not for minutes.
        """
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                while not is_so():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            states = ", ".join(f"{managed.spec.name} {managed.state}" for _, managed in self.supervisor.processes())
            raise TimeoutError(f"not within {_READY_WITHIN_S:g} s: {what}. Now: {states}") from None

    def kill(self, managed: ManagedProcess) -> None:
        """SIGKILL; its supervisor starts another."""
        if managed.child is not None:
            self._dead.add(managed.child.pid)
            managed.child.kill()

    def _pools(self, plan: Plan) -> list[Pool]:
        return [
            Pool(name="store", rank=_STORE, make=lambda _: self._store()),
            Pool(name="router", rank=_ROUTERS, size=plan.routers, make=self._ours("router", "router")),
            *(
                Pool(
                    name=worker_pool(MODEL, version),
                    rank=_WORKERS,
                    size=plan.workers,
                    make=self._ours(f"worker-{version}", "worker", "--model", MODEL, "--version", version),
                )
                for version in VERSIONS
            ),
            Pool(name="api", rank=_APIS, size=plan.apis, make=self._ours("api", "api")),
        ]

    def _store(self) -> ProcessSpec:
        """Valkey as a store must be set for the promise: it refuses when full, and a restart forgets nothing."""
        port = int(self.settings.store.redis_url.rsplit(":", 1)[1].split("/")[0])
        folder = self.settings.stack.state_dir / "store"
        folder.mkdir()
        return ProcessSpec(
            name="store",
            argv=(
                *store_argv(port, maxmemory_mib=_STORE_MAXMEMORY_MIB),
                *("--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder)),
            ),
            env={},
            log_path=self._log("store"),
            is_ready=partial(store_answers, self.settings.store.redis_url),
            port=port,
        )

    def _ours(self, name: str, *argv: str) -> Callable[[int], ProcessSpec]:
        port_name = "INFERLANE_API_PORT" if name == "api" else "INFERLANE_OPS_PORT"

        def make(number: int) -> ProcessSpec:
            (port,) = free_ports(1)
            url = base_url(_HOST, port)
            return ProcessSpec(
                name=f"{name}-{number}",
                argv=(sys.executable, "-m", _WORKER if argv[0] == "worker" else "control_plane", *argv),
                env={**os.environ, **self._environment, port_name: str(port)},
                log_path=self._log(f"{name}-{number}"),
                is_ready=partial(is_ready, url),
                is_live=partial(is_live, url),
                port=port,
                ops_url=url,
            )

        return make

    def _log(self, name: str) -> Path:
        return self.settings.stack.state_dir / "logs" / f"{name}.log"


@asynccontextmanager
async def running_system(plan: Plan, broker: Broker, folder: Path, models_dir: Path) -> AsyncIterator[System]:
    """Yields when every process is ready; drains them all at the end.

    Raises:
        StartError: a process did not get ready; the message has the end of its log.
    """
    (store_port,) = free_ports(1)
    own = {
        "redis_url": f"redis://{_HOST}:{store_port}/0",
        "models_dir": models_dir,
        "state_dir": folder,
        "default_model": MODEL,
        "ingress_partitions": 2,
        "work_partitions": 2,
        "log_format": "json",
        "session_timeout_ms": SESSION_TIMEOUT_MS,
    }
    settings = await asyncio.to_thread(broker.settings, **own)
    environment = await asyncio.to_thread(broker.environment, **own)
    await create_topics(
        settings.kafka,
        settings.stack.names,
        settings.webhooks,
        [(MODEL, version) for version in (*VERSIONS, IDLE_VERSION)],
    )
    system = System(settings, environment, plan)
    stop, ready = asyncio.Event(), asyncio.Event()

    async def when_ready() -> None:
        ready.set()

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(system.supervisor.run(stop, when_ready=when_ready), name="system")
        try:
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if ready.is_set():
                yield system
        finally:
            stop.set()

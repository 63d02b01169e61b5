"""The pools of the versions on the local stack: start, probe and stop them, and report their faults."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import structlog

from control_plane.local.managed_process import StartError, State
from control_plane.local.pools import StackPools, worker_pool
from control_plane.local.probe import Target, predict
from control_plane.local.shared_pool import SHARED_POOL
from control_plane.topic_admin import create_topics
from inferlane.errors import InferlaneError, UnavailableError
from inferlane.runtime.http.api_address import ApiAddress
from inferlane.runtime.runfile import FaultRecord

if TYPE_CHECKING:
    from control_plane.local.pool_autoscaler import Autoscaler
    from control_plane.local.supervisor import Supervisor
    from inferlane.runtime.config import Settings

log = structlog.get_logger(__name__)

_PROBE_WAIT_S = 30.0
# How often a version that did not answer its probe is asked again.
_PROBE_AGAIN_S = 10.0
# How often the shared process is asked while a caller waits for it, and otherwise; and the most that a caller waits: a
# version loads in less, and a draining one may take as long as its batches.
_LOOK_S = 0.1
_WATCH_S = 2.0
_SETTLE_S = 60.0


class VersionPools:
    """Used from one event loop. The targets of `pools` are the versions that have a pool."""

    def __init__(
        self,
        settings: "Settings",
        *,
        pools: StackPools,
        supervisor: "Supervisor",
        unusable: Sequence[FaultRecord],
        workers: int,
        on_change: Callable[[], None],
    ) -> None:
        """`unusable` is what the model store cannot serve, to be shown with the rest; `workers` are those of a pool."""
        self._workers = workers
        self._on_change = on_change
        self._settings = settings
        self._pools = pools
        self._shared = pools.shared
        self._supervisor = supervisor
        self._api = ApiAddress.of_this_machine(settings.api, settings.client)
        self._unusable = unusable
        self._autoscaler: Autoscaler | None = None
        # The error of the last probe of each version.
        self._unanswered: dict[Target, str] = {}

    def scaled_by(self, autoscaler: "Autoscaler") -> None:
        """Also scale pools that are started from now on."""
        self._autoscaler = autoscaler

    def names(self) -> frozenset[tuple[str, str]]:
        """Return the versions that have a pool."""
        return frozenset((target.model, target.version) for target in self._pools.targets)

    async def start(self, target: Target) -> None:
        """Start the pool of a version and probe it; an error is added to the faults.

        Raises:
            UnavailableError: the broker does not answer.
        """
        await create_topics(
            self._settings.kafka, self._settings.stack.names, self._settings.webhooks, [(target.model, target.version)]
        )
        self._pools.targets.append(target)
        if self._shared.wants(target):
            await self._start_shared(target)
        else:
            await self._supervisor.add(self._pools.workers(target))
        await self._probe([target])
        self._on_change()
        if self._autoscaler is not None:
            self._autoscaler.add(target, self._settings.stack.names, workers=self._workers)

    async def stop(self, name: tuple[str, str]) -> None:
        """Stop the pool of a version once it has drained."""
        if self._autoscaler is not None:
            await self._autoscaler.remove(worker_pool(*name))
        await self._supervisor.remove(worker_pool(*name))
        for target in [target for target in self._pools.targets if (target.model, target.version) == name]:
            if self._shared.holds(target):
                await self._stop_shared(target)
            self._pools.targets.remove(target)
            self._unanswered.pop(target, None)
        self._on_change()

    async def scale(self, pool: str, size: int) -> None:
        """Scale the pool of a version; a version that shares a process leaves it if it needs more than one worker.

        It does not return before the stack is restarted: a changing lag would start and stop workers again and again.

        Raises:
            ConfigurationError: no such pool.
            StartError: a new process did not get ready.
        """
        shared = {worker_pool(target.model, target.version): target for target in self._pools.targets}
        target = shared.get(pool)
        if target is None or not self._shared.holds(target):
            await self._supervisor.scale(pool, size)
        elif size > 1:
            await self._leave_shared(target, size)

    async def isolate(self, model: str, version: str) -> None:
        """Give a version that shares a process a pool of its own; any other stays as it is.

        Raises:
            StartError: its worker did not get ready; it stays where it is.
        """
        for target in list(self._pools.targets):
            if (target.model, target.version) == (model, version) and self._shared.holds(target):
                await self._leave_shared(target, 1)

    async def watch_shared(self) -> NoReturn:
        """Follow the status of the shared process, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if await self._look_at_shared():
                self._on_change()

    async def probe_again(self) -> NoReturn:
        """Probe versions that did not answer, until they do: a machine may have been busy. Until cancelled."""
        while True:
            await asyncio.sleep(_PROBE_AGAIN_S)
            before = dict(self._unanswered)
            await self._probe([target for target in before if target in self._pools.targets])
            for target in self._unanswered.keys() - self._pools.targets:
                # Retired meanwhile.
                del self._unanswered[target]
            if self._unanswered != before:
                self._on_change()

    def sharing(self, pool: str) -> tuple[str, ...]:
        """Return the versions that share the processes of a pool, as `model/version`."""
        return self._shared.labels if pool == SHARED_POOL else ()

    async def _look_at_shared(self) -> bool:
        urls = [process.spec.ops_url for pool, process in self._supervisor.processes() if pool == SHARED_POOL]
        return bool(urls) and await self._shared.look(urls[0])

    async def _start_shared(self, target: Target) -> None:
        """Let the shared process serve a version; return when it does, or has failed."""
        self._shared.add(target)
        if any(pool == SHARED_POOL for pool, _ in self._supervisor.processes()):
            self._shared.tell()
        else:
            await self._supervisor.add(self._pools.shared_workers())
        await self._settled(target)

    async def _stop_shared(self, target: Target, *, for_good: bool = False) -> None:
        """Let the shared process drop a version; return when it has drained the version."""
        self._shared.remove(target, for_good=for_good)
        self._shared.tell()
        await self._settled(target)

    async def _leave_shared(self, target: Target, size: int) -> None:
        """Start a pool for a version that shares a process; once its workers read, the process drops the version."""
        pool = worker_pool(target.model, target.version)
        await self._supervisor.add(replace(self._pools.workers(target), size=size))
        if not any(name == pool and process.state is State.READY for name, process in self._supervisor.processes()):
            await self._supervisor.remove(pool)
            raise StartError(f"no worker of {target.model} {target.version} got ready; it stays in {SHARED_POOL}")
        await self._stop_shared(target, for_good=True)
        log.info("version_left_shared_process", model=target.model, version=target.version, workers=size)

    async def _settled(self, target: Target) -> None:
        """Return when the shared process has seen a change; one that is down sees it at its start."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await self._look_at_shared()
                while not self._shared.is_settled(target):
                    await asyncio.sleep(_LOOK_S)
                    await self._look_at_shared()

    def _pool_of(self, target: Target) -> str:
        return SHARED_POOL if self._shared.holds(target) else worker_pool(target.model, target.version)

    async def probe_all(self) -> None:
        """Send a request through every hop for each version that has a worker.

        Raises:
            UnavailableError: none of them answers.
        """
        await self._look_at_shared()
        started = [target for target in self._pools.targets if self._has_worker(target)]
        await self._probe(started)
        if self._pools.targets and len(self._unanswered) == len(started):
            reasons = "; ".join(f"{fault.model} {fault.version}: {fault.reason}" for fault in self.faults())
            raise UnavailableError(f"no version can be served. {reasons}")

    async def _probe(self, targets: Sequence[Target]) -> None:
        started = [target for target in targets if self._has_worker(target)]
        outcomes = await asyncio.gather(
            *(
                predict(self._api, target, wait_s=_PROBE_WAIT_S, api_key=self._settings.client.key)
                for target in started
            ),
            return_exceptions=True,
        )
        for target, outcome in zip(started, outcomes, strict=True):
            if isinstance(outcome, InferlaneError):
                self._unanswered[target] = str(outcome)
                log.error("version_unanswered", model=target.model, version=target.version, reason=str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                self._unanswered.pop(target, None)

    def _has_worker(self, target: Target) -> bool:
        if self._shared.holds(target) and not self._shared.serves(target):
            return False
        name = self._pool_of(target)
        return any(pool == name and process.state is State.READY for pool, process in self._supervisor.processes())

    def faults(self) -> tuple[FaultRecord, ...]:
        """Return the versions that are not served now, each once, with the reason."""
        reasons = {
            (target.model, target.version): process.fault
            for target in self._pools.targets
            for pool, process in self._supervisor.processes()
            if pool == self._pool_of(target) and process.fault and not self._has_worker(target)
        }
        reasons |= {
            (target.model, target.version): reason
            for target in self._pools.targets
            if self._shared.holds(target) and (reason := self._shared.fault(target))
        }
        reasons |= {(target.model, target.version): reason for target, reason in self._unanswered.items()}
        found = (
            FaultRecord(model=model, version=version, reason=reason) for (model, version), reason in reasons.items()
        )
        return (*self._unusable, *found)

"""The pools of the versions on the local stack: start, probe and stop them, and what is wrong with each."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from control_plane.local.managed_process import State
from control_plane.local.pools import StackPools, worker_pool
from control_plane.local.probe import Target, predict
from inferlane.errors import InferlaneError, UnavailableError
from inferlane.runtime.http.api_address import ApiAddress
from inferlane.runtime.kafka.topic_admin import create_topics
from inferlane.runtime.runfile import FaultRecord

if TYPE_CHECKING:
    from control_plane.local.pool_autoscaler import Autoscaler
    from control_plane.local.supervisor import Supervisor
    from inferlane.runtime.config import Settings

log = structlog.get_logger(__name__)

_PROBE_WAIT_S = 30.0


class VersionPools:
    """One event loop. The targets of `pools` are the versions that have a pool."""

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
        self._supervisor = supervisor
        self._api = ApiAddress.of_this_machine(settings)
        self._unusable = unusable
        self._autoscaler: Autoscaler | None = None
        # What a probe of each version said that was wrong.
        self._unanswered: dict[Target, str] = {}

    def scaled_by(self, autoscaler: "Autoscaler") -> None:
        """Have pools that are started from now on scaled too."""
        self._autoscaler = autoscaler

    def names(self) -> frozenset[tuple[str, str]]:
        """The versions that have a pool."""
        return frozenset((target.model, target.version) for target in self._pools.targets)

    async def start(self, target: Target) -> None:
        """Start the pool of a version and probe it; what goes wrong is among the faults.

        Raises:
            UnavailableError: the broker does not answer.
        """
        await create_topics(self._settings, [(target.model, target.version)])
        self._pools.targets.append(target)
        await self._supervisor.add(self._pools.workers(target))
        await self._probe([target])
        self._on_change()
        if self._autoscaler is not None:
            self._autoscaler.add(target, self._settings.names, workers=self._workers)

    async def stop(self, name: tuple[str, str]) -> None:
        """Stop the pool of a version once it has drained."""
        if self._autoscaler is not None:
            await self._autoscaler.remove(worker_pool(*name))
        await self._supervisor.remove(worker_pool(*name))
        for target in [target for target in self._pools.targets if (target.model, target.version) == name]:
            self._pools.targets.remove(target)
            self._unanswered.pop(target, None)
        self._on_change()

    async def probe_all(self) -> None:
        """Send a request through every hop for each version that has a worker.

        Raises:
            UnavailableError: none of them answers.
        """
        started = [target for target in self._pools.targets if self._has_worker(target)]
        await self._probe(started)
        if self._pools.targets and len(self._unanswered) == len(started):
            reasons = "; ".join(f"{fault.model} {fault.version}: {fault.reason}" for fault in self.faults())
            raise UnavailableError(f"no version can be served. {reasons}")

    async def _probe(self, targets: Sequence[Target]) -> None:
        started = [target for target in targets if self._has_worker(target)]
        outcomes = await asyncio.gather(
            *(predict(self._api, target, wait_s=_PROBE_WAIT_S, api_key=self._settings.api_key) for target in started),
            return_exceptions=True,
        )
        for target, outcome in zip(started, outcomes, strict=True):
            if isinstance(outcome, InferlaneError):
                self._unanswered[target] = str(outcome)
                log.error("version_unanswered", model=target.model, version=target.version, reason=str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome

    def _has_worker(self, target: Target) -> bool:
        name = worker_pool(target.model, target.version)
        return any(pool == name and process.state is State.READY for pool, process in self._supervisor.processes())

    def faults(self) -> tuple[FaultRecord, ...]:
        """Return the versions that are not served now, each once, with the reason."""
        reasons = {
            (target.model, target.version): process.fault
            for target in self._pools.targets
            for pool, process in self._supervisor.processes()
            if pool == worker_pool(target.model, target.version) and process.fault and not self._has_worker(target)
        } | {(target.model, target.version): reason for target, reason in self._unanswered.items()}
        found = (
            FaultRecord(model=model, version=version, reason=reason) for (model, version), reason in reasons.items()
        )
        return (*self._unusable, *found)

"""Scale the worker processes of the local stack as KEDA and the HPA would scale its pods.

`control_plane.autoscaling.desired_replicas` decides; here are clock, broker and supervisor around it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from control_plane.autoscaling.desired_replicas import PartitionOffsets, PoolScaler
from control_plane.local.managed_process import Backoff, StartError
from control_plane.local.scaled_pools import ScaledPool, pool_like
from inferlane.errors import ConfigurationError, InferlaneError
from inferlane.runtime.metrics import consumer_metrics as metrics
from inferlane.runtime.metrics.instruments import forget_series

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.autoscaling.desired_replicas import Offsets
    from control_plane.local.probe import Target
    from inferlane.contracts.naming import Names
    from inferlane.runtime.kafka.offsets import PartitionPosition, Subscription


log = structlog.get_logger(__name__)

_LONGEST_SLEEP_S = 1.0

Scale = Callable[[str, int], Awaitable[None]]
"""Scale the pool of that name to that size; returns once it has it."""


class PartitionReader(Protocol):
    """Where the lag comes from: `inferlane.runtime.kafka.lag.BacklogReader`."""

    async def read_partitions(
        self, subscriptions: "Sequence[Subscription]"
    ) -> "Mapping[Subscription, Sequence[PartitionPosition]]":
        """Return every partition of each subscription whose topic exists."""

    async def close(self) -> None:
        """Disconnect."""


@dataclass(slots=True, eq=False)
class ScaledState:
    """One pool as the autoscaler sees it now."""

    pool: "ScaledPool"
    scaler: PoolScaler
    reason: str = "started"
    # None while the broker does not answer.
    lag_records: int | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    following: asyncio.Task[None] | None = None


class Autoscaler:
    """Read the lag of each pool on its polling interval and scale it through the supervisor. One event loop."""

    def __init__(
        self,
        pools: "Sequence[ScaledPool]",
        *,
        reader: PartitionReader,
        scale: Scale,
        hpa_sync_s: float,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        self._pools = pools
        self._reader = reader
        self._scale = scale
        self._hpa_sync_s = hpa_sync_s
        self._on_look = on_look
        self._backoff = Backoff()
        self._following: asyncio.TaskGroup | None = None
        self.states: tuple[ScaledState, ...] = ()

    def add(self, target: "Target", names: "Names", *, workers: int) -> None:
        """Scale the pool of a version that has come, from `workers`: as that of its model, else as the first one."""
        alike = next((pool for pool in self._pools if pool.model == target.model), self._pools[0])
        pool = pool_like(alike, target, names)
        self._pools = (*(known for known in self._pools if known.name != pool.name), pool)
        if self._following is not None:
            self._begin(self._following, pool, replicas=workers)

    async def remove(self, pool: str) -> None:
        """Leave a pool alone, with the size that it has, once a change of its size under way is done."""
        # The last one stays as a pattern for those that come.
        self._pools = tuple(known for known in self._pools if known.name != pool) or tuple(self._pools[:1])
        gone = [state for state in self.states if state.pool.name == pool]
        self.states = tuple(state for state in self.states if state.pool.name != pool)
        for state in gone:
            if state.following is not None:
                state.following.cancel()
                await asyncio.wait([state.following])
            forget_series([metrics.WANTED], state.pool.model, state.pool.version)
            for trigger in state.pool.scaled_object.triggers:
                forget_series([metrics.LAG], trigger.topic)

    async def run(self, *, workers: int) -> None:
        """Scale until cancelled, from pools of `workers` each that run and count as just used.

        Run again after a failure, it goes on from the sizes that it had decided.
        """
        sizes = {state.pool.name: state.scaler.replicas for state in self.states}
        self.states = ()
        log.info(
            "autoscaler_started", pools=[pool.name for pool in self._pools], workers=workers, now_s=time.monotonic()
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                self._following = tasks
                for pool in self._pools:
                    self._begin(tasks, pool, replicas=sizes.get(pool.name, workers))
                await self._look_for_ever()
        finally:
            self._following = None
            await self._reader.close()

    def _begin(self, tasks: asyncio.TaskGroup, pool: ScaledPool, *, replicas: int) -> None:
        now_s = time.monotonic()
        scaler = PoolScaler(pool.scaled_object, replicas=replicas, now_s=now_s, hpa_sync_s=self._hpa_sync_s)
        state = ScaledState(pool, scaler)
        state.following = tasks.create_task(self._follow(state), name=f"scale:{pool.name}")
        self.states = (*self.states, state)

    async def _look_for_ever(self) -> None:
        while True:
            next_look_s = min((state.scaler.next_look_s for state in self.states), default=float("inf"))
            # A pool that comes meanwhile may want to be looked at earlier.
            await asyncio.sleep(min(max(0.0, next_look_s - time.monotonic()), _LONGEST_SLEEP_S))
            now_s = time.monotonic()
            due = [state for state in self.states if state.scaler.next_look_s <= now_s]
            if not due:
                continue
            positions = await self._positions(due)
            for state in due:
                # Not one that was removed meanwhile.
                if state in self.states:
                    self._look(state, positions)
            self._on_look()

    async def _positions(self, due: "Sequence[ScaledState]") -> "Mapping[Subscription, Sequence[PartitionPosition]]":
        try:
            return await self._reader.read_partitions(
                [subscription for state in due for subscription in state.pool.subscriptions]
            )
        except InferlaneError as error:
            # A trigger that cannot be read: what then is part of the policy.
            log.warning("lag_not_read", error=str(error))
            return {}

    def _look(self, state: ScaledState, positions: "Mapping[Subscription, Sequence[PartitionPosition]]") -> None:
        found = [positions.get(subscription) for subscription in state.pool.subscriptions]
        offsets: list[Offsets] = [
            None
            if partitions is None
            else [PartitionOffsets(end=partition.end, committed=partition.committed) for partition in partitions]
            for partitions in found
        ]
        before, now_s = state.scaler.replicas, time.monotonic()
        decision = state.scaler.look(offsets, now_s=now_s)
        lags = [None if lane is None else sum(partition.lag_records for partition in lane) for lane in found]
        state.lag_records = None if None in lags else sum(lag for lag in lags if lag is not None)
        self._measure(state, lags)
        # Enough to feed the same values to the policy again.
        log.debug(
            "pool_looked_at",
            pool=state.pool.name,
            now_s=now_s,
            offsets=[None if lane is None else [(one.end, one.committed) for one in lane] for lane in offsets],
            workers=decision.replicas,
        )
        if decision.replicas != before:
            state.reason = decision.reason
            log.info(
                "pool_size_decided",
                pool=state.pool.name,
                before=before,
                workers=decision.replicas,
                reason=decision.reason,
                lag_records=lags,
            )
            state.changed.set()

    def _measure(self, state: ScaledState, lags: Sequence[int | None]) -> None:
        metrics.WANTED.labels(state.pool.model, state.pool.version).set(state.scaler.replicas)
        for trigger, lag in zip(state.pool.scaled_object.triggers, lags, strict=True):
            if lag is not None:
                metrics.LAG.labels(trigger.topic).set(lag)

    async def _follow(self, state: ScaledState) -> None:
        """Scale the pool to the latest decision, even if it changes meanwhile."""
        failures = 0
        while True:
            await state.changed.wait()
            state.changed.clear()
            try:
                await self._scale(state.pool.name, state.scaler.replicas)
                failures = 0
            except (StartError, ConfigurationError) as error:
                failures += 1
                delay_s = self._backoff.delay_s(failures)
                log.exception("pool_not_scaled", pool=state.pool.name, error=str(error), again_in_s=delay_s)
                await asyncio.sleep(delay_s)
                state.changed.set()

"""Scales the worker processes of the local stack as KEDA and the HPA would scale its pods.

The decisions are those of `control_plane.autoscaling.pool`; here are clock, broker and supervisor around them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from control_plane.autoscaling.lag import PartitionOffsets
from control_plane.autoscaling.pool import PoolScaler
from control_plane.local.backoff import Backoff
from control_plane.local.keeper import StartError
from inferlane.errors import ConfigurationError, InferlaneError
from inferlane.runtime.metrics import autoscaler as metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.autoscaling.pool import Offsets
    from control_plane.local.scaled_pools import ScaledPool
    from inferlane.runtime.kafka.positions import PartitionPosition, Subscription

log = structlog.get_logger(__name__)

Scale = Callable[[str, int], Awaitable[None]]
"""Makes the pool of that name that large; returns when it is."""


class PositionReader(Protocol):
    """Where the lag comes from: `inferlane.runtime.kafka.backlog.BacklogReader`."""

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


class Autoscaler:
    """Looks at the lag of each pool when its ScaledObject says so, and makes the supervisor follow. One event loop."""

    def __init__(
        self,
        pools: "Sequence[ScaledPool]",
        *,
        reader: PositionReader,
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
        self.states: tuple[ScaledState, ...] = ()

    async def run(self, *, workers: int) -> None:
        """Scale until cancelled, from pools of `workers` each that run and count as just used.

        Run again after a failure, it goes on from the sizes that it had decided.
        """
        now_s = time.monotonic()
        sizes = {state.pool.name: state.scaler.replicas for state in self.states}
        self.states = tuple(
            ScaledState(
                pool,
                PoolScaler(
                    pool.numbers, replicas=sizes.get(pool.name, workers), now_s=now_s, hpa_sync_s=self._hpa_sync_s
                ),
            )
            for pool in self._pools
        )
        log.info("autoscaler_started", pools=[pool.name for pool in self._pools], workers=workers, now_s=now_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                for state in self.states:
                    tasks.create_task(self._follow(state), name=f"scale:{state.pool.name}")
                await self._look_for_ever()
        finally:
            await self._reader.close()

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, min(state.scaler.next_look_s for state in self.states) - time.monotonic()))
            now_s = time.monotonic()
            due = [state for state in self.states if state.scaler.next_look_s <= now_s]
            positions = await self._positions(due)
            for state in due:
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
        # Enough to feed the same numbers to the policy again.
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
        for trigger, lag in zip(state.pool.numbers.triggers, lags, strict=True):
            if lag is not None:
                metrics.LAG.labels(trigger.topic).set(lag)

    async def _follow(self, state: ScaledState) -> None:
        """Bring the pool to the size that was last decided, however often that changes meanwhile."""
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

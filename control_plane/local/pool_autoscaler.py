"""Scale the worker processes of the local stack as KEDA and the HPA would scale its pods.

`control_plane.autoscaling.desired_replicas` decides; here are clock, broker and supervisor around it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from control_plane.autoscaling.desired_replicas import PartitionOffsets, PoolScaler
from control_plane.autoscaling.scaled_object import read_scaled_objects
from control_plane.local.managed_process import Backoff, StartError
from control_plane.local.pools import worker_pool
from inferlane.contracts.naming import Lane
from inferlane.errors import ConfigurationError, InferlaneError
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.metrics import consumer_metrics as metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from control_plane.autoscaling.desired_replicas import Offsets
    from control_plane.autoscaling.scaled_object import ScaledObject
    from control_plane.local.probe import Target
    from inferlane.contracts.naming import Names
    from inferlane.runtime.kafka.offsets import PartitionPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledPool:
    """A pool of workers by the name that the supervisor knows it by, and the ScaledObject that it follows."""

    name: str
    model: str
    version: str
    scaled_object: "ScaledObject"

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The topic and group of each trigger, in the order of the triggers."""
        return tuple(Subscription(trigger.topic, trigger.consumer_group) for trigger in self.scaled_object.triggers)


def read_scaled_pools(
    path: "Path", targets: "Sequence[Target]", *, max_workers: int, names: "Names"
) -> tuple[ScaledPool, ...]:
    """Return the pools of `targets` that the file has a ScaledObject for, each with at most `max_workers`.

    ScaledObjects of other pools are left out: the file is that of a cluster, which may serve more.

    Raises:
        ConfigurationError: the file cannot be read, is malformed, names a group that does not read its topic, has two
            ScaledObjects for one pool or none for any.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the ScaledObjects in {path}: {error.strerror}. Name the file with --scaled-objects."
        ) from error
    versions = {
        names.work_topic(target.model, target.version, lane): (target.model, target.version)
        for target in targets
        for lane in Lane
    }
    pools: dict[str, ScaledPool] = {}
    for scaled_object in read_scaled_objects(text, source=str(path)):
        of_triggers = {versions.get(trigger.topic) for trigger in scaled_object.triggers}
        if of_triggers == {None}:
            continue
        pool = _pool(scaled_object.capped(max_workers), of_triggers, source=str(path), names=names)
        if pool.name in pools:
            raise ConfigurationError(
                f"{path}: {pools[pool.name].scaled_object.name} and {scaled_object.name} both scale {pool.name}. "
                "Remove one."
            )
        pools[pool.name] = pool
    if not pools:
        raise ConfigurationError(
            f"{path} has no ScaledObject for any version that is served here: none has a trigger for one of "
            f"{', '.join(versions)}. Name another file with --scaled-objects."
        )
    return tuple(pools.values())


def _pool(
    scaled_object: "ScaledObject", of_triggers: Iterable[tuple[str, str] | None], *, source: str, names: "Names"
) -> ScaledPool:
    """Check that every trigger is of one version and of the group that reads it."""
    first, *others = of_triggers
    if first is None or others:
        topics = ", ".join(trigger.topic for trigger in scaled_object.triggers)
        raise ConfigurationError(
            f"{source}: ScaledObject {scaled_object.name} looks at {topics}, not the topics of one version. Mend it."
        )
    group = names.worker_group(*first)
    if other := [trigger.consumer_group for trigger in scaled_object.triggers if trigger.consumer_group != group]:
        raise ConfigurationError(
            f"{source}: ScaledObject {scaled_object.name} looks at the group {other[0]}, not at {group}, which reads "
            "its topics. Mend it."
        )
    return ScaledPool(name=worker_pool(*first), model=first[0], version=first[1], scaled_object=scaled_object)


log = structlog.get_logger(__name__)

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
                    pool.scaled_object, replicas=sizes.get(pool.name, workers), now_s=now_s, hpa_sync_s=self._hpa_sync_s
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

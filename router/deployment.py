"""What the whole deployment looks like from the router: backlog of every topic, ages, split weights, the store."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.naming import Lane
from inferlane.errors import InferlaneError
from inferlane.runtime.kafka.lag import BacklogReader, OldestAge
from inferlane.runtime.kafka.offsets import PartitionPosition, Position, Subscription
from inferlane.runtime.metrics import router as metrics
from inferlane.runtime.redis.connection import store_errors
from inferlane.runtime.redis.health import read_store_memory
from router.routing import weights_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.runtime.config import Settings
    from models.catalog import Catalog, Model
    from router.routing import Splits

log = structlog.get_logger(__name__)

# Each look costs the broker a call a group and lane. Seldom makes ages coarse, often spends an idle broker's CPU.
_LOOK_S = 5.0
_Pool = tuple[str, str, Lane]


class DeploymentWatch:
    """Keeps the gauges that no other process can know while a pool sleeps. One event loop; `run` never raises ours."""

    def __init__(self, settings: "Settings", *, catalog: "Catalog", splits: "Splits", redis: "Redis") -> None:
        self._settings = settings
        self._redis = redis
        self._reader = BacklogReader(settings)
        names = settings.names
        self._ingress = {Subscription(topic, names.router_group): lane for lane, topic in names.ingress.items()}
        self._pools: dict[Subscription, _Pool] = {
            Subscription(
                names.work_topic(version.model, version.version, lane),
                names.worker_group(version.model, version.version),
            ): (version.model, version.version, lane)
            for version in catalog.all_versions()
            for lane in Lane
        }
        self._ages: dict[Subscription, OldestAge] = {
            subscription: OldestAge() for subscription in (*self._ingress, *self._pools)
        }
        for model in catalog.models.values():
            for name in model.versions:
                weight = metrics.SPLIT_WEIGHT.labels(model.name, name)
                weight.set_function(partial(_weight, model, name, splits))

    async def run(self) -> None:
        """Look every few seconds until cancelled; what does not answer keeps its last numbers."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(_LOOK_S)
        finally:
            await self._reader.close()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self._settings.kafka_request_timeout_ms / 1000):
                self._note(await self._reader.read_partitions([*self._ingress, *self._pools]))
                await self._note_store()
        except (InferlaneError, TimeoutError) as error:
            log.warning("deployment_not_seen", error=str(error), retry_s=_LOOK_S)

    def _note(self, found: Mapping[Subscription, Sequence[PartitionPosition]]) -> None:
        at_s = time.monotonic()
        for subscription, partitions in found.items():
            age_s = self._ages[subscription].note(partitions, at_s=at_s)
            lag_records = Position.of(partitions).lag_records
            if (lane := self._ingress.get(subscription)) is not None:
                metrics.INGRESS_LAG.labels(lane).set(lag_records)
                metrics.INGRESS_AGE.labels(lane).set(age_s)
            else:
                pool = self._pools[subscription]
                metrics.POOL_LAG.labels(*pool).set(lag_records)
                metrics.POOL_AGE.labels(*pool).set(age_s)
                metrics.POOL_MAX.labels(*pool[:2]).set(len(partitions))

    async def _note_store(self) -> None:
        async with store_errors(self._settings.redis_url):
            memory = await read_store_memory(self._redis)
        metrics.STORE_USED.set(memory.used_bytes)
        metrics.STORE_MAX.set(memory.limit_bytes)


def _weight(model: "Model", version: str, splits: "Splits") -> float:
    return weights_of(model, splits).get(version, 0.0)

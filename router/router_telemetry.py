"""What the router measures: metrics and spans of each lane, the whole deployment, and the room for shadow copies."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import structlog
from msgspec.structs import replace

from inferlane import errors
from inferlane.contracts.naming import Lane
from inferlane.contracts.outcomes import OTHER
from inferlane.contracts.record import TRACE_PARENT
from inferlane.contracts.traffic_split import shares_of
from inferlane.runtime.kafka.lag import BacklogReader, OldestAge
from inferlane.runtime.kafka.offsets import PartitionPosition, Position, Subscription
from inferlane.runtime.metrics import router_metrics as metrics
from inferlane.runtime.metrics.instruments import UNKNOWN, bounded, forget_series
from inferlane.runtime.metrics.router_metrics import SHADOW_COPIES
from inferlane.runtime.redis.connection import store_errors
from inferlane.runtime.redis.store_probe import read_store_memory
from inferlane.runtime.tracing import message_attributes, version_attributes
from router.routing import Route, weights_of

if TYPE_CHECKING:
    from prometheus_client import Counter
    from redis.asyncio import Redis

    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.contracts.naming import Names
    from inferlane.runtime.delivery import Reply
    from inferlane.runtime.metrics.instruments import Observations
    from inferlane.runtime.settings import KafkaSettings
    from inferlane.runtime.tracing.spans import Attributes, Span, Tracing
    from models.catalog import Catalog, Model
    from models.live_catalog import AnyCatalog
    from router.routing import Splits

# Bulk records that may wait for a version before it gets no more copies. Fewer compare less at a high rate, because
# the lag is read every few seconds only; more are compared later.
_MAX_LAG_RECORDS = 5_000


class ShadowGate:
    """Counts what may still be copied until the lag is read again. Used from one event loop."""

    def __init__(self) -> None:
        self._room: dict[tuple[str, str], int] = {}
        self._asked, self._dropped = (SHADOW_COPIES.labels(outcome) for outcome in ("asked", "dropped"))

    def note_lag(self, model: str, version: str, lag_records: int) -> None:
        """Note how many bulk records wait for a version."""
        self._room[model, version] = _MAX_LAG_RECORDS - lag_records

    def admits(self, model: str, version: str) -> bool:
        """Return whether the version may get one copy more; counts it."""
        room = self._room.get((model, version), _MAX_LAG_RECORDS)
        if room <= 0:
            self._dropped.inc()
            return False
        self._room[model, version] = room - 1
        self._asked.inc()
        return True


_MS = 1e-3
_UNKNOWN_ROUTE = Route(UNKNOWN, UNKNOWN)
# The reasons for which the router can refuse a record.
_REASONS = (
    *(
        error.code
        for error in (
            errors.DecodeError,
            errors.FatalRecordError,
            errors.InferlaneError,
            errors.PayloadTooLargeError,
            errors.RecordRefusedError,
            errors.TopicMissingError,
            errors.UnavailableError,
            errors.UnknownModelError,
            errors.UnusableVersionError,
        )
    ),
    OTHER,
)


class RouterLaneMetrics:
    """The metrics of one lane. Every series exists from the start; updated once per fetched batch and version."""

    def __init__(self, catalog: "AnyCatalog", lane: "Lane") -> None:
        self._lane = lane
        self._routed: dict[Route, Counter] = {}
        self._wait: dict[Route, Observations] = {}
        self._bind(_UNKNOWN_ROUTE)
        catalog.on_change(self._learn)
        self._refused = {reason: metrics.REFUSED.labels(lane, reason) for reason in _REASONS}
        self._forward = metrics.FORWARD.labels(lane)

    def _learn(self, catalog: "Catalog") -> None:
        for version in catalog.all_versions():
            self._bind(Route(version.model, version.version))

    def _bind(self, route: Route) -> None:
        if route not in self._routed:
            self._routed[route] = metrics.ROUTED.labels(route.model, route.version, self._lane)
            self._wait[route] = metrics.INGRESS_WAIT.labels(route.model, route.version, self._lane)

    def note_routed(self, chosen: Route, stamps_ms: Sequence[int], *, fetched_s: float) -> None:
        """Count the records of a fetched batch that went to one version; `stamps_ms` are their Kafka timestamps."""
        if chosen not in self._routed:
            # A version that only another router's catalog has: its name must not become a label.
            chosen = _UNKNOWN_ROUTE
        self._routed[chosen].inc(len(stamps_ms))
        self._wait[chosen].observe_many(np.maximum(fetched_s - np.array(stamps_ms, np.float64) * _MS, 0.0))

    def note_batch(self, *, took_s: float) -> None:
        """Count a fetched batch that is forwarded."""
        self._forward.observe(took_s)

    def note_refused(self, refused: "Sequence[Reply]") -> None:
        """Count records that no version could serve or that could not be written."""
        for reply in refused:
            self._refused[bounded(reply.result.error_code, _REASONS)].inc()


class RouteSpans:
    """The spans of a fetched batch: each begins when it was fetched and ends when it is forwarded."""

    def __init__(self, tracing: "Tracing", topic: str, *, fetched_s: float) -> None:
        self._tracing = tracing
        self._topic = topic
        self._fetched_s = fetched_s
        self._open: list[tuple[Span, str | None]] = []

    def routed(self, chosen: "Route", out: "OutRecord") -> "OutRecord":
        """Begin the span of a routed record; returns the record with the span as the parent of the worker's spans."""
        headers = dict(out.headers)
        span = self._begin(
            headers.get(TRACE_PARENT),
            message_attributes(self._topic, (headers.get("ce_id") or b"").decode(errors="replace"))
            | version_attributes(chosen.model, chosen.version),
        )
        self._open.append((span, None))
        return replace(out, headers=span.put_into(out.headers))

    def refused(self, reply: "Reply") -> None:
        """Begin the span of a record that no version can serve."""
        span = self._begin(reply.trace_parent, message_attributes(self._topic, reply.result.request_id))
        self._open.append((span, reply.result.error_code))

    def end(self) -> None:
        """End all spans: the batch is forwarded and the refused records have replies."""
        for span, error in self._open:
            span.end(error=error)

    def _begin(self, parent: bytes | None, attributes: "Attributes") -> "Span":
        return self._tracing.begin(
            f"route {self._topic}", kind="CONSUMER", parent=parent, at_s=self._fetched_s, attributes=attributes
        )


log = structlog.get_logger(__name__)

# Each reading costs the broker a call per group and lane. Longer makes ages coarse; shorter uses an idle broker's CPU.
_INTERVAL_S = 5.0
_Pool = tuple[str, str, Lane]


class DeploymentMonitor:
    """Sets the gauges that nobody else can set while a pool is scaled to zero. Used from one event loop.

    `run` logs an `InferlaneError` and goes on.
    """

    def __init__(  # noqa: PLR0913 - parts of the settings, and what it works with
        self,
        kafka: "KafkaSettings",
        redis_url: str,
        names: "Names",
        *,
        catalog: "AnyCatalog",
        splits: "Splits",
        redis: "Redis",
        shadow_gate: "ShadowGate",
    ) -> None:
        self._kafka = kafka
        self._redis_url = redis_url
        self._names = names
        self._shadow_gate = shadow_gate
        self._redis = redis
        self._reader = BacklogReader(kafka)
        self._ingress = {Subscription(topic, names.router_group): lane for lane, topic in names.ingress.items()}
        self._splits = splits
        self._pools: dict[Subscription, _Pool] = {}
        self._ages: dict[Subscription, OldestAge] = {subscription: OldestAge() for subscription in self._ingress}
        catalog.on_change(self._learn)

    def _learn(self, catalog: "Catalog") -> None:
        """Look at the versions of the catalogue from now on."""
        names = self._names
        versions = [(version.model, version.version) for version in catalog.all_versions()]
        for pool in self._pools.values():
            if pool[:2] not in versions:
                _forget(*pool)
        self._pools = {
            Subscription(names.work_topic(*version, lane), names.worker_group(*version)): (*version, lane)
            for version in versions
            for lane in Lane
        }
        self._ages = {
            subscription: self._ages.get(subscription) or OldestAge() for subscription in (*self._ingress, *self._pools)
        }
        for model in catalog.models.values():
            for name in model.versions:
                weight = metrics.SPLIT_WEIGHT.labels(model.name, name)
                weight.set_function(partial(_weight, model, name, self._splits))

    async def run(self) -> None:
        """Read lag, ages and store memory every few seconds until cancelled; a failed reading keeps the last values."""
        try:
            while True:
                await self._read()
                await asyncio.sleep(_INTERVAL_S)
        finally:
            await self._reader.close()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._kafka.request_timeout_ms / 1000):
                self._note(await self._reader.read_partitions([*self._ingress, *self._pools]))
                await self._note_store()
        except (errors.InferlaneError, TimeoutError) as error:
            log.warning("deployment_not_seen", error=str(error), retry_s=_INTERVAL_S)

    def _note(self, found: Mapping[Subscription, Sequence[PartitionPosition]]) -> None:
        at_s = time.monotonic()
        for subscription, partitions in found.items():
            if subscription not in self._ages:
                # Retired while the broker was asked.
                continue
            age_s = self._ages[subscription].note(partitions, at_s=at_s)
            lag_records = Position.of(partitions).lag_records
            if (lane := self._ingress.get(subscription)) is not None:
                metrics.INGRESS_LAG.labels(lane).set(lag_records)
                metrics.INGRESS_AGE.labels(lane).set(age_s)
            else:
                pool = self._pools[subscription]
                metrics.POOL_LAG.labels(*pool).set(lag_records)
                if pool[2] is Lane.BULK:
                    self._shadow_gate.note_lag(pool[0], pool[1], lag_records)
                metrics.POOL_AGE.labels(*pool).set(age_s)
                metrics.POOL_MAX.labels(*pool[:2]).set(len(partitions))

    async def _note_store(self) -> None:
        async with store_errors(self._redis_url):
            memory = await read_store_memory(self._redis)
        metrics.STORE_USED.set(memory.used_bytes)
        metrics.STORE_MAX.set(memory.limit_bytes)


def _forget(model: str, version: str, lane: Lane) -> None:
    """Drop the gauges of a retired version: a lag that nobody reads any more would stand for ever."""
    forget_series((metrics.POOL_LAG, metrics.POOL_AGE), model, version, lane)
    forget_series((metrics.POOL_MAX, metrics.SPLIT_WEIGHT), model, version)


def _weight(model: "Model", version: str, splits: "Splits") -> float:
    return shares_of(weights_of(model, splits)).get(version, 0.0)

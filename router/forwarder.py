"""The data path: fetch records, choose a version for each, produce the same bytes to its topic, then commit."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import (
    FALLBACK,
    ROLLOUT,
    SHADOW,
    RequestHeaders,
    default_headers,
    identified,
    read_unidentified,
)
from inferlane.contracts.sticky_runs import STICKY_RECORDS, run_limit_of
from inferlane.contracts.traffic_split import Served, Split
from inferlane.errors import DecodeError, InferlaneError, UnknownModelError, clipped
from inferlane.runtime.delivery import Delivery, Reply
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.kafka.record_writer import Sender
from inferlane.runtime.retry import Retrier
from router.destinations import Destinations
from router.routed_records import RoutedRecord, no_callbacks, refusal, routed_headers
from router.router_telemetry import RouterLaneMetrics, RouteSpans, ShadowGate
from router.routing import Route, ServedModels, Splits, deciding_split, fallback_of, route, route_to_served, shadow_of

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from inferlane.contracts.naming import Names
    from inferlane.runtime.service_settings import WebhookSettings
    from inferlane.runtime.tracing.spans import Tracing
    from models.live_catalog import AnyCatalog

log = structlog.get_logger(__name__)

# Returns when the catalogue knows what is in its topic now.
CatchUp = Callable[[], Awaitable[None]]

# How long the lane waits for a topic. Shorter parks records that a busy broker accepts a little later; longer delays
# the clients of the other versions when a topic begins to fail.
_SLOW_AFTER_S = 0.5
# Fetched batches of which a part waits for a failing topic, uncommitted; above this number the lane waits too.
_MAX_PARKED_BATCHES = 1_000
_NO_SERVED_MODELS: Mapping[str, Served] = MappingProxyType({})


@dataclass(slots=True)
class _Forwarding:
    """A fetched batch while it is forwarded."""

    lane: Lane
    fetched_s: float
    spans: RouteSpans | None
    # On a clock that nobody sets.
    begun_s: float = field(default_factory=time.monotonic)
    refused: list[Reply] = field(default_factory=list)


class Forwarder:
    """Forwards fetched batches; one per router process."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        names: "Names",
        webhooks: "WebhookSettings",
        *,
        catalog: "AnyCatalog",
        splits: Splits,
        served_models: ServedModels = _NO_SERVED_MODELS,
        producer: Sender,
        delivery: Delivery,
        retrier: Retrier,
        shadow_gate: ShadowGate | None = None,
        tracing: "Tracing | None" = None,
        catch_up: CatchUp | None = None,
        sticky_records: int = STICKY_RECORDS,
    ) -> None:
        """`sticky_records` without an order go to one partition in a row."""
        self._sticky_records = sticky_records
        self._catch_up = catch_up
        self._shadow_gate = shadow_gate or ShadowGate()
        self._names = names
        self._sends_callbacks = webhooks.enabled
        self._ingress = names.ingress
        self._catalog = catalog
        self._splits = splits
        self._served_models = served_models
        self._destinations = Destinations(producer, retrier)
        self._parked_batches = 0
        self._delivery = delivery
        self._tracing = tracing
        self._metrics = {lane: RouterLaneMetrics(catalog, lane) for lane in Lane}
        # Batches are decided on and begin to be written in their order, which keeps that of the records of a key.
        self._deciding = {lane: asyncio.Lock() for lane in Lane}

    async def forward(self, fetched: FetchedBatch, lane: Lane) -> Awaitable[object] | None:
        """Return when each record is in the topic of its version, or has a reply because no version can serve it.

        If some records wait for a failing topic, return an awaitable for them, so that the lane goes on with others.
        """
        fetched_s = time.time()
        spans = None if self._tracing is None else RouteSpans(self._tracing, self._ingress[lane], fetched_s=fetched_s)
        work = _Forwarding(lane, fetched_s, spans)
        async with self._deciding[lane]:
            by_topic = self._sort(await self._decisions(fetched, lane), work)
            # Do not wait for a topic whose last write failed.
            waited = [topic for topic in by_topic if not self._destinations.is_failing(topic)]
            steps = {topic: self._write(topic, part, work) for topic, part in by_topic.items()}
            # Most batches are one write: more tasks would cost as much as the decisions.
            is_one = len(steps) == 1 and not work.refused
            if is_one:
                steps = {topic: self._end([write], work) for topic, write in steps.items()}
            writes = {topic: asyncio.create_task(step) for topic, step in steps.items()}
        refusals = [asyncio.create_task(self._delivery.deliver(work.refused))] if work.refused else []
        tasks = [*writes.values(), *refusals]
        rest = tasks[0] if is_one else asyncio.create_task(self._end(tasks, work))
        try:
            if early := [*(writes[topic] for topic in waited), *refusals]:
                await asyncio.wait(early, timeout=_SLOW_AFTER_S)
            for topic in waited:
                if not writes[topic].done():
                    self._destinations.note_slow(topic)
            is_full = self._parked_batches >= _MAX_PARKED_BATCHES or not self._destinations.has_room
            if is_full or all(task.done() for task in tasks):
                await rest
                return None
        except asyncio.CancelledError:
            rest.cancel()
            raise
        return self._park(rest)

    async def _park(self, rest: "asyncio.Task[None]") -> None:
        self._parked_batches += 1
        try:
            await rest
        finally:
            self._parked_batches -= 1

    async def _decisions(self, fetched: FetchedBatch, lane: Lane) -> list[RoutedRecord | Reply]:
        """Decide on each record; again if a version is unknown: its sender may have read the catalogue earlier."""
        decisions = [self.decide(record, lane) for record in fetched.records]
        if self._catch_up is None or not any(map(_is_unknown, decisions)):
            return decisions
        await self._catch_up()
        return [
            self.decide(record, lane) if _is_unknown(decision) else decision
            for record, decision in zip(fetched.records, decisions, strict=True)
        ]

    def _sort(self, decisions: "Iterable[RoutedRecord | Reply]", work: _Forwarding) -> dict[str, list[RoutedRecord]]:
        """Group the records by their topic; add the others to `work.refused`."""
        by_topic: dict[str, list[RoutedRecord]] = {}
        for decision in decisions:
            if isinstance(decision, Reply):
                work.refused.append(decision)
                if work.spans is not None:
                    work.spans.refused(decision)
                continue
            if work.spans is not None:
                routed = replace(decision, out=work.spans.routed(decision.chosen, decision.out))
            else:
                routed = decision
            by_topic.setdefault(routed.out.topic, []).append(routed)
        return by_topic

    async def _write(self, topic: str, part: list[RoutedRecord], work: _Forwarding) -> None:
        """Return when each record is in the topic, or has a reply because the topic does not accept it.

        A retry may write a record twice: workers and the store recognise a request by its id.
        """
        outcomes = await self._destinations.write(topic, [routed.out for routed in part])
        metrics = self._metrics[work.lane]
        written: dict[Route, list[int]] = {}
        refused: list[Reply] = []
        for routed, error in zip(part, outcomes, strict=True):
            if error is None:
                written.setdefault(routed.chosen, []).append(routed.record.timestamp)
            else:
                whose = identified(routed.headers, routed.record)
                refused.append(refusal(routed.record, work.lane, whose, error))
        for chosen, stamps in written.items():
            metrics.note_routed(chosen, stamps, fetched_s=work.fetched_s)
        if refused:
            log.error("records_refused", topic=topic, records=len(refused), error=refused[0].result.error_detail)
            await self._delivery.deliver(refused)
            metrics.note_refused(refused)

    async def _end(self, parts: Sequence[Awaitable[None]], work: _Forwarding) -> None:
        await (parts[0] if len(parts) == 1 else asyncio.gather(*parts))
        if work.spans is not None:
            work.spans.end()
        metrics = self._metrics[work.lane]
        metrics.note_refused(work.refused)
        metrics.note_batch(took_s=time.monotonic() - work.begun_s)

    async def give_up(self, record: "ConsumerRecord", lane: Lane, error: InferlaneError) -> None:
        """Dead-letter a record that must not be tried again; return when its terminal result is durable."""
        try:
            headers = identified(read_unidentified(record), record)
        except DecodeError:
            headers = default_headers(record)
        refused = [refusal(record, lane, headers, error)]
        await self._delivery.deliver(refused)
        self._metrics[lane].note_refused(refused)

    def decide(self, record: "ConsumerRecord", lane: Lane) -> RoutedRecord | Reply:
        """Return the record for its version's topic, or a terminal reply if no version can serve it."""
        try:
            # The id of a foreign request needs its payload; read that only if a reply needs the id.
            headers = read_unidentified(record)
        except DecodeError as error:
            return refusal(record, lane, default_headers(record), error)
        try:
            return self._route(record, lane, headers)
        except InferlaneError as error:
            return refusal(record, lane, identified(headers, record), error)
        except Exception as error:  # a record must never stop the lane, whatever it holds
            log.exception("record_unroutable", lane=lane, request_id=headers.request_id)
            failure = InferlaneError(f"routing failed: {clipped(repr(error))}")
            return refusal(record, lane, identified(headers, record), failure)

    def _route(self, record: "ConsumerRecord", lane: Lane, headers: RequestHeaders) -> RoutedRecord:
        if headers.callback_url is not None and not self._sends_callbacks:
            raise no_callbacks()
        try:
            chosen = route(headers, self._splits, self._catalog, lane)
        except UnknownModelError:
            found = route_to_served(headers, self._splits, self._served_models, lane)
            if found is None:
                raise
            chosen = found
        key = record.key or (headers.routing_key or headers.request_id).encode()
        topic = self._names.work_topic(chosen.model, chosen.version, lane)
        # Records with a key of the producer's own keep their order: no sticky partition.
        max_run = run_limit_of(headers, key, most=self._sticky_records)
        out_headers = routed_headers(record, headers, chosen)
        split = deciding_split(headers, chosen, self._splits)
        if split is not None:
            out_headers += self._trial_headers(headers, chosen, split)
        out = OutRecord(topic, key, record.value or b"", out_headers, max_run=max_run)
        return RoutedRecord(record, headers, chosen, out)

    def _trial_headers(self, headers: RequestHeaders, chosen: Route, split: Split) -> "Iterator[tuple[str, bytes]]":
        if split.rollout:
            yield ROLLOUT, split.rollout.encode()
        if fallback := fallback_of(chosen, split):
            yield FALLBACK, fallback.encode()
        if (shadow := shadow_of(headers, chosen, split)) and self._shadow_gate.admits(chosen.model, shadow):
            yield SHADOW, shadow.encode()


def _is_unknown(decision: RoutedRecord | Reply) -> bool:
    return isinstance(decision, Reply) and decision.result.error_code == UnknownModelError.code

"""The data path: take a fetch, choose a version for each record, produce the same bytes, then commit."""

import time
from typing import TYPE_CHECKING

import structlog

from inferlane.dead_letters import stack_of
from inferlane.delivery import Answer, Delivery
from inferlane.errors import DecodeError, InferlaneError
from inferlane.kafka.consuming import LaneConsumer, Take
from inferlane.kafka.lanes import LaneOptions, Lanes
from inferlane.kafka.producing import BatchProducer, OutRecord, check_size
from inferlane.naming import Lane
from inferlane.quoting import clipped
from inferlane.record import (
    POSITION,
    PROOF,
    RequestHeaders,
    default_headers,
    format_time,
    identified,
    position_of,
    read_unidentified,
)
from inferlane.results import Result
from inferlane.retrying import Retrier
from inferlane.topics import record_limit_bytes
from router.lane_metrics import LaneMetrics
from router.routing import Route, Splits, route
from router.spans import TakeSpans

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from inferlane.config import Settings
    from inferlane.tracing.spans import Tracing
    from models.catalog import Catalog

log = structlog.get_logger(__name__)

# Too small costs a round trip more for the same records, too large makes one slow batch of many.
_MAX_RECORDS = 2_000
# Records that go to one partition together. Too few makes a batch of each for broker and worker, too many gives all
# that wait at one moment to one worker of the pool.
_TOGETHER = 16
# Headers that the router writes, whatever a record says there.
_ROUTERS_OWN = frozenset({"ce_model", "ce_modelversion", POSITION})


class Forwarder:
    """Forwards takes; one for each router."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        settings: "Settings",
        *,
        catalog: "Catalog",
        splits: Splits,
        producer: BatchProducer,
        delivery: Delivery,
        retrier: Retrier,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._names = settings.names
        self._ingress = settings.names.ingress
        self._catalog = catalog
        self._splits = splits
        self._producer = producer
        self._delivery = delivery
        self._retrier = retrier
        self._tracing = tracing
        self._limit_bytes = record_limit_bytes(settings)
        self._metrics = {lane: LaneMetrics(catalog, lane) for lane in Lane}

    async def forward(self, take: Take, lane: Lane) -> None:
        """Return when each record is in the topic of its version, or answered because no version can serve it."""
        taken_s = time.time()
        routed: list[OutRecord] = []
        refused: list[Answer] = []
        stamps_ms: dict[Route, list[int]] = {}
        spans = None if self._tracing is None else TakeSpans(self._tracing, self._ingress[lane], taken_s=taken_s)
        for record in take.records:
            decision = self._decide(record, lane)
            if isinstance(decision, Answer):
                refused.append(decision)
                if spans is not None:
                    spans.refused(decision)
            else:
                chosen, out = decision
                routed.append(out if spans is None else spans.routed(chosen, out))
                stamps_ms.setdefault(chosen, []).append(record.timestamp)
        # What was written before a failure is written again: workers and the store know a request by its id.
        await self._retrier.until_done(lambda: self._producer.send(routed), stage=f"forward:{lane}")
        if refused:
            await self._delivery.deliver(refused)
        if spans is not None:
            spans.end()
        metrics = self._metrics[lane]
        for chosen, stamps in stamps_ms.items():
            metrics.note_routed(chosen, stamps, taken_s=taken_s)
        metrics.note_take(refused, took_s=time.time() - taken_s)

    def _decide(self, record: "ConsumerRecord", lane: Lane) -> tuple[Route, OutRecord] | Answer:
        """The route and the record for its topic, or the terminal answer of a record that no version can serve."""
        try:
            # Whose it is costs a look at the payload, which only an answer needs.
            headers = read_unidentified(record)
        except DecodeError as error:
            return _refuse(record, lane, default_headers(record), error)
        try:
            return self._route(record, lane, headers)
        except InferlaneError as error:
            return _refuse(record, lane, identified(headers, record), error)
        except Exception as error:  # a record must never stop the lane, whatever it holds
            log.exception("record_unroutable", lane=lane, request_id=headers.request_id)
            failure = InferlaneError(f"routing failed: {clipped(repr(error))}")
            return _refuse(record, lane, identified(headers, record), failure)

    def _route(self, record: "ConsumerRecord", lane: Lane, headers: RequestHeaders) -> tuple[Route, OutRecord]:
        chosen = route(headers, self._splits, self._catalog)
        key = record.key or (headers.routing_key or headers.request_id).encode()
        topic = self._names.work_topic(chosen.model, chosen.version, lane)
        # A key of the producer's own keeps its order.
        together = _TOGETHER if headers.routing_key is None and key == headers.request_id.encode() else 0
        out = OutRecord(topic, key, record.value or b"", _routed_headers(record, headers, chosen), together=together)
        check_size(out, self._limit_bytes)
        return chosen, out


def router_lanes(settings: "Settings", forwarder: Forwarder, retrier: Retrier) -> Lanes:
    """The data path: both ingress topics through the forwarder."""

    def options(lane: Lane, topic: str) -> LaneOptions:
        consumer = LaneConsumer(
            settings, topic=topic, group=settings.names.router_group, lane=lane, is_excused=lambda: retrier.is_retrying
        )
        return LaneOptions(consumer=consumer, max_records=_MAX_RECORDS)

    lanes = {lane: options(lane, topic) for lane, topic in settings.names.ingress.items()}
    return Lanes(lanes, work=forwarder.forward, retrier=retrier)


def _routed_headers(record: "ConsumerRecord", headers: RequestHeaders, chosen: Route) -> list[tuple[str, bytes]]:
    """The record's own headers, with the choice and with what the record left to us."""
    kept = [header for header in record.headers if header[0] not in _ROUTERS_OWN]
    kept.append(("ce_model", chosen.model.encode()))
    kept.append(("ce_modelversion", chosen.version.encode()))
    names = {name for name, value in kept if value}
    if "ce_id" not in names:
        kept.append(("ce_id", headers.request_id.encode()))
    if "ce_time" not in names:
        kept.append(("ce_time", format_time(headers.accepted_s)))
    if PROOF not in names:
        kept.append((POSITION, position_of(record).encode()))
    return kept


def _refuse(record: "ConsumerRecord", lane: Lane, headers: RequestHeaders, error: InferlaneError) -> Answer:
    return Answer(
        result=Result.failed(headers, error, now_s=time.time()),
        lane=lane,
        reply_to=headers.reply_to,
        batch_id=headers.batch_id,
        to_topic=lane is Lane.BULK or headers.reply_to is None,
        dead=record,
        stack=stack_of(error),
        trace_parent=headers.trace_parent,
        source=headers.source,
        position=headers.position,
    )

"""The data path: take a fetch, choose a version for each record, produce the same bytes, then commit."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from inferlane.delivery import Answer, Delivery
from inferlane.errors import DecodeError, InferlaneError, UnavailableError
from inferlane.kafka.consuming import LaneConsumer, Take
from inferlane.kafka.producing import BatchProducer, OutRecord, check_size
from inferlane.metrics import ROUTER_DELAY, ROUTER_REFUSED, ROUTER_ROUTED
from inferlane.record import RequestHeaders, default_headers, format_time, read_headers
from inferlane.results import Result
from inferlane.topics import INGRESS, ROUTER_GROUP, Lane, record_limit_bytes, work_topic
from router.routing import Route, Splits, route

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from inferlane.config import Settings
    from models.catalog import Catalog

log = structlog.get_logger(__name__)

# Too small costs a round trip more for the same records, too large makes one slow batch of many.
_MAX_RECORDS = 2_000
_IDLE_WAIT_S = 0.5
_RETRY_S = 0.2


class Forwarder:
    """Moves both lanes, each in a loop of its own so that bulk never delays a waiting client."""

    def __init__(
        self, settings: "Settings", *, catalog: "Catalog", splits: Splits, producer: BatchProducer, delivery: Delivery
    ) -> None:
        self._catalog = catalog
        self._splits = splits
        self._producer = producer
        self._delivery = delivery
        self._limit_bytes = record_limit_bytes(settings)
        self._consumers = {
            lane: LaneConsumer(settings, topic=topic, group=ROUTER_GROUP) for lane, topic in INGRESS.items()
        }

    def ready(self) -> Mapping[str, bool]:
        """Whether each lane has its place in the group."""
        return {f"{lane}_lane": consumer.has_joined for lane, consumer in self._consumers.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until `stop` is set, then finish what was taken, commit it and return.

        Raises:
            UnavailableError: the broker does not answer at start.
        """
        try:
            for consumer in self._consumers.values():
                await consumer.start()
            async with asyncio.TaskGroup() as lanes:
                for lane in self._consumers:
                    lanes.create_task(self._run_lane(lane, stop), name=f"forward:{lane}")
        finally:
            for consumer in self._consumers.values():
                await consumer.close()

    async def _run_lane(self, lane: Lane, stop: asyncio.Event) -> None:
        consumer = self._consumers[lane]
        while not stop.is_set():
            try:
                take = await consumer.take(max_records=_MAX_RECORDS, timeout_s=_IDLE_WAIT_S)
            except UnavailableError as error:
                log.warning("take_retried", lane=lane, error=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            if take is not None:
                await self._forward(take, lane)
                consumer.finish(take)

    async def _forward(self, take: Take, lane: Lane) -> None:
        routed: list[OutRecord] = []
        refused: list[Answer] = []
        counts: Counter[Route] = Counter()
        for record in take.records:
            decision = self._decide(record, lane)
            if isinstance(decision, Answer):
                refused.append(decision)
            else:
                chosen, out = decision
                routed.append(out)
                counts[chosen] += 1
        await self._send(routed, lane)
        if refused:
            await self._delivery.deliver(refused)
        for chosen, count in counts.items():
            ROUTER_ROUTED.labels(chosen.model, chosen.version, lane).inc(count)
        ROUTER_DELAY.labels(lane).observe(max(0.0, time.time() - take.records[0].timestamp / 1000))

    async def _send(self, routed: Sequence[OutRecord], lane: Lane) -> None:
        while True:
            try:
                await self._producer.send(routed)
            except UnavailableError as error:
                # What was written already is written again: workers and the store know a request by its id.
                log.warning("forward_retried", lane=lane, records=len(routed), error=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return

    def _decide(self, record: "ConsumerRecord", lane: Lane) -> tuple[Route, OutRecord] | Answer:
        """The route and the record for its topic, or the terminal answer of a record that no version can serve."""
        try:
            headers = read_headers(record)
        except DecodeError as error:
            return _refuse(record, lane, default_headers(record), error)
        try:
            return self._route(record, lane, headers)
        except InferlaneError as error:
            return _refuse(record, lane, headers, error)
        except Exception as error:  # a record must never stop the lane, whatever it holds
            log.exception("record_unroutable", lane=lane, request_id=headers.request_id)
            return _refuse(record, lane, headers, InferlaneError(f"routing failed: {error!r}"))

    def _route(self, record: "ConsumerRecord", lane: Lane, headers: RequestHeaders) -> tuple[Route, OutRecord]:
        chosen = route(headers, self._splits, self._catalog)
        key = record.key or (headers.routing_key or headers.request_id).encode()
        topic = work_topic(chosen.model, chosen.version, lane)
        out = OutRecord(topic, key, record.value or b"", _routed_headers(record, headers, chosen))
        check_size(out, self._limit_bytes)
        return chosen, out


def _routed_headers(record: "ConsumerRecord", headers: RequestHeaders, chosen: Route) -> list[tuple[str, bytes]]:
    """The record's own headers, with the choice and with what the record left to us."""
    kept = [header for header in record.headers if header[0] not in ("ce_model", "ce_modelversion")]
    kept.append(("ce_model", chosen.model.encode()))
    kept.append(("ce_modelversion", chosen.version.encode()))
    names = {name for name, value in kept if value}
    if "ce_id" not in names:
        kept.append(("ce_id", headers.request_id.encode()))
    if "ce_time" not in names:
        kept.append(("ce_time", format_time(headers.accepted_s)))
    return kept


def _refuse(record: "ConsumerRecord", lane: Lane, headers: RequestHeaders, error: InferlaneError) -> Answer:
    ROUTER_REFUSED.labels(lane, error.code).inc()
    return Answer(
        result=Result.failed(headers, error, now_s=time.time()),
        lane=lane,
        reply_to=headers.reply_to,
        batch_id=headers.batch_id,
        to_topic=lane is Lane.BULK or headers.reply_to is None,
        dead=record,
    )

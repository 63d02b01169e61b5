"""Asking by records of one's own, and reading `inferlane.results`. Duplicates and late repeats included."""

import asyncio
import random
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from inferlane.contracts.kafka_record import format_time
from inferlane.contracts.naming import Lane, Names
from inferlane.runtime.kafka.clients import make_consumer, make_producer
from tests.faults.harness.ledger import Entry, Ledger
from tests.faults.harness.questions import MODEL, Oracle, Question, Way

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

NAMES = Names()

log = structlog.get_logger(__name__)

_ACKNOWLEDGED_WITHIN_S = 30.0
_RETRY_S = 0.2
_TWICE_AT_ONCE = 0.1
_AGAIN_LATER = 0.1
_LANE_OF = {Way.REQUESTS: Lane.REQUESTS, Way.BULK: Lane.BULK}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class TopicWays:
    """The producers and the reader of the results. One event loop."""

    def __init__(self, settings: "Settings", ledger: Ledger, oracle: Oracle, draw: random.Random) -> None:
        self._settings = settings
        self._ledger = ledger
        self._oracle = oracle
        self._draw = draw
        self._producer: AIOKafkaProducer | None = None
        self._renewing = asyncio.Lock()
        # Sent once already; sent again among records that are newer.
        self._to_repeat: list[_Record] = []
        self.repeated = 0
        self.unacknowledged = 0

    async def close(self) -> None:
        """Disconnect."""
        if self._producer is not None:
            await _stop(self._producer)

    async def ask(self, way: Way, question: Question) -> str:
        """Produce the question and return its id; it is accepted when the broker has acknowledged it."""
        request_id, now_s = uuid.uuid4().hex, time.time()
        due_s = now_s + question.deadline_s
        record = _make_record(way, question, request_id, now_s, due_s)
        self._ledger.expect(Entry(request_id=request_id, way=way, question=question, due_from_s=due_s, due_by_s=due_s))
        await self._produce(record)
        self._ledger.accept(request_id, at_s=time.time())
        await self._maybe_repeat(record)
        return request_id

    async def repeat_all(self) -> None:
        """Send every repeat that is still held back."""
        while self._to_repeat:
            await self._repeat(self._to_repeat.pop())

    async def read_for_ever(self) -> None:
        """Read what `inferlane.results` says, from its beginning."""
        consumer = make_consumer(self._settings.kafka, NAMES.results, group=None)
        try:
            await consumer.start()
            while True:
                with suppress(KafkaError):
                    fetched = await consumer.getmany(timeout_ms=500)
                    for records in fetched.values():
                        for record in records:
                            headers = dict(record.headers)
                            answer = self._oracle.read_record(headers, record.value)
                            self._ledger.observe(headers["ce_id"].decode(), answer, at_s=time.time())
        finally:
            await consumer.stop()

    async def _maybe_repeat(self, record: _Record) -> None:
        chance = self._draw.random()
        if chance < _TWICE_AT_ONCE:
            await self._repeat(record)
        elif chance < _TWICE_AT_ONCE + _AGAIN_LATER:
            self._to_repeat.append(record)
        elif self._to_repeat and chance > 1 - _AGAIN_LATER:
            await self._repeat(self._to_repeat.pop(self._draw.randrange(len(self._to_repeat))))

    async def _repeat(self, record: _Record) -> None:
        await self._produce(record)
        self.repeated += 1

    async def _produce(self, record: _Record) -> None:
        """Return when the record is acknowledged; one whose fate is unknown is sent again under the same id."""
        while True:
            producer = await self._connected()
            try:
                async with asyncio.timeout(_ACKNOWLEDGED_WITHIN_S):
                    await producer.send_and_wait(
                        record.topic, record.value, key=record.key, headers=list(record.headers)
                    )
            except (KafkaError, OSError, TimeoutError) as error:
                self.unacknowledged += 1
                log.info("not_acknowledged", topic=record.topic, error=repr(error))
                await self._renew(producer)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _connected(self) -> AIOKafkaProducer:
        while True:
            async with self._renewing:
                if self._producer is not None:
                    return self._producer
                producer = make_producer(self._settings.kafka)
                try:
                    await producer.start()
                except (KafkaError, OSError, TimeoutError):
                    await _stop(producer)
                else:
                    self._producer = producer
                    return producer
            await asyncio.sleep(_RETRY_S)

    async def _renew(self, failed: AIOKafkaProducer) -> None:
        async with self._renewing:
            if self._producer is failed:
                self._producer = None
                await _stop(failed)


def _make_record(way: Way, question: Question, request_id: str, now_s: float, due_s: float) -> _Record:
    headers = [
        ("ce_id", request_id.encode()),
        ("ce_model", MODEL.encode()),
        ("ce_time", format_time(now_s)),
        ("ce_deadline", format_time(due_s)),
    ]
    if question.version is not None:
        headers.append(("ce_modelversion", question.version.encode()))
    return _Record(
        topic=NAMES.ingress[_LANE_OF[way]],
        key=request_id.encode(),
        value=msgspec.json.encode({"instances": question.rows}),
        headers=tuple(headers),
    )


async def _stop(producer: AIOKafkaProducer) -> None:
    # What it still holds is sent again by whoever waits for it.
    with suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(_RETRY_S):
            await producer.stop()

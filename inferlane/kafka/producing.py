"""Producing by the batch: many records, one wait."""

import asyncio
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec
import structlog
from aiokafka.errors import InvalidProducerEpoch, OutOfOrderSequenceNumber, ProducerFenced

from inferlane.errors import PayloadTooLargeError, UnavailableError
from inferlane.kafka.clients import broker_errors, make_producer
from inferlane.kafka.spreading import Spread
from inferlane.record import Headers
from inferlane.topics import record_limit_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiokafka import AIOKafkaProducer
    from aiokafka.cluster import ClusterMetadata

    from inferlane.config import Settings


log = structlog.get_logger(__name__)

_SPENT = (OutOfOrderSequenceNumber, InvalidProducerEpoch, ProducerFenced)


class OutRecord(msgspec.Struct, frozen=True):
    """A record on its way out; `timestamp_ms` None means now.

    With `together` it goes to any partition, in the company of so many at most; without, all of a key go to the same,
    in their order.
    """

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    timestamp_ms: int | None = None
    together: int = 0


# The frame of a record in its batch, and of each header, at their largest.
_RECORD_FRAME_BYTES = 128
_HEADER_FRAME_BYTES = 16


def headers_bytes(headers: Headers) -> int:
    """What these headers take in a record, frames included, at most."""
    return sum(_name_bytes(name) + len(value or b"") + _HEADER_FRAME_BYTES for name, value in headers)


def _name_bytes(name: str) -> int:
    # Asked of each header of each record: encoding the name would cost more than all the rest.
    return len(name) if name.isascii() else len(name.encode(errors="replace"))


def check_size(record: OutRecord, limit_bytes: int) -> int:
    """Refuse what the broker would, else return the record's size at most, in bytes.

    After the broker's own refusal an idempotent producer has lost its sequence.

    Raises:
        PayloadTooLargeError: the record with its key and headers is over the limit.
    """
    size_bytes = len(record.value) + len(record.key) + _RECORD_FRAME_BYTES + headers_bytes(record.headers)
    if size_bytes > limit_bytes:
        raise PayloadTooLargeError(
            f"a record for {record.topic} has {size_bytes} bytes with its headers, the limit is {limit_bytes}; "
            "send fewer rows a request, or raise INFERLANE_MAX_BODY_BYTES and the topics' max.message.bytes"
        )
    return size_bytes


class BatchProducer:
    """Sends records as the batches that they form. Safe for any number of tasks of one event loop.

    aiokafka's `send` costs a future, a metadata check and a partitioner call for each record; a batch built here
    costs one append a record and one future a batch.
    """

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        # An idempotent producer whose sequence the broker refuses is refused for ever after.
        self._is_spent = False
        self._renewing = asyncio.Lock()
        self._spreads: dict[str, Spread] = {}
        # Past this the broker has not answered although the client still waits: an idempotent producer never
        # gives up by itself.
        self._limit_bytes = record_limit_bytes(settings)
        self._timeout_s = settings.kafka_request_timeout_ms / 1000

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError: the broker does not answer.
        """
        producer = make_producer(self._settings)
        try:
            with broker_errors(self._settings.kafka_bootstrap_servers):
                await producer.start()
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer
        producer.client.cluster.add_listener(self._note_partitions)

    async def close(self) -> None:
        """Flush what is under way and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            # An idempotent producer never gives up a flush by itself; nobody waits for what is left.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await producer.stop()

    async def _renew(self) -> None:
        """Replace a producer that is spent; what it held failed, and whoever sent it sends it again."""
        async with self._renewing:
            if self._is_spent:
                log.warning("producer_renewed")
                await self.close()
                await self.start()
                self._is_spent = False

    async def send(self, records: "Iterable[OutRecord]") -> None:
        """Return when every record is acknowledged by all in-sync replicas.

        A record's partition is the CRC-32 of its key, as librdkafka's `consistent` partitioner, unless it may go
        together with others.

        Raises:
            PayloadTooLargeError: a record is over the limit; nothing was sent.
            UnavailableError: at least one record may not have been written; sending all again is harmless to
                readers that know duplicates by id.
        """
        if self._is_spent:
            await self._renew()
        by_partition: dict[tuple[str, int], list[OutRecord]] = {}
        moved: set[str] = set()
        for record in records:
            size_bytes = check_size(record, self._limit_bytes)
            spread = self._spreads.get(record.topic) or await self._learn_partitions(record.topic)
            if record.together:
                if record.topic not in moved:
                    spread.move_on()
                    moved.add(record.topic)
                partition = spread.place(size_bytes, together=record.together)
            else:
                partition = crc32(record.key) % spread.partitions
            by_partition.setdefault((record.topic, partition), []).append(record)
        if not by_partition:
            return
        with broker_errors(self._settings.kafka_bootstrap_servers):
            async with asyncio.timeout(self._timeout_s):
                await asyncio.gather(
                    *(self._send_group(topic, partition, group) for (topic, partition), group in by_partition.items())
                )

    async def _send_group(self, topic: str, partition: int, group: "Sequence[OutRecord]") -> None:
        producer = self._connected()
        futures = []
        batch = producer.create_batch()
        for record in group:
            fits = batch.append(
                key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=record.headers
            )
            if fits is None:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=record.headers)
        futures.append(await producer.send_batch(batch, topic, partition=partition))
        try:
            await asyncio.gather(*futures)
        except _SPENT:
            self._is_spent = True
            raise

    def _note_partitions(self, cluster: "ClusterMetadata") -> None:
        """Learn anew, with the next record, how many partitions a topic has if it has others than before."""
        for topic, spread in list(self._spreads.items()):
            if (now := cluster.partitions_for_topic(topic)) and len(now) != spread.partitions:
                log.info("partitions_changed", topic=topic, before=spread.partitions, now=len(now))
                del self._spreads[topic]

    async def _learn_partitions(self, topic: str) -> Spread:
        with broker_errors(self._settings.kafka_bootstrap_servers):
            async with asyncio.timeout(self._timeout_s):
                partitions = await self._connected().partitions_for(topic)
        if not partitions:
            raise UnavailableError(f"topic {topic!r} does not exist; create it with `inferlane topics create`")
        spread = self._spreads[topic] = Spread(len(partitions), first=secrets.randbelow(len(partitions)))
        return spread

    def _connected(self) -> "AIOKafkaProducer":
        if self._producer is None:
            raise UnavailableError("the producer is not connected; call start() first")
        return self._producer

"""Produce records in batches: many records, one wait."""

import asyncio
import secrets
from typing import TYPE_CHECKING
from zlib import crc32

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import UnknownTopicOrPartitionError

from inferlane.contracts.kafka_record import OutRecord, check_size
from inferlane.errors import InferlaneError, PayloadTooLargeError, RecordRefusedError, UnavailableError
from inferlane.runtime.concurrent import all_done
from inferlane.runtime.error_remedies import TOO_LARGE, Remedy, remedy_of
from inferlane.runtime.kafka.arrival_signals import ArrivalSignals
from inferlane.runtime.kafka.clients import BROKER_ERRORS, broker_errors, record_limit_bytes
from inferlane.runtime.kafka.direct_producer import written_batch
from inferlane.runtime.kafka.producer_connection import RenewableProducer, TopicFacts, write_failure
from inferlane.runtime.kafka.record_writer import (
    CODECS,
    OutBatch,
    PlacedRecords,
    SentBatch,
    StickyPartitioner,
    cut_into_batches,
    drop_batches,
    make_builder,
    one_small_batch,
    over_topic_limit,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiokafka.cluster import ClusterMetadata

    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# If a partition has not acknowledged within this time, the broker is asked whether it still exists, at this interval.
_LOOK_AFTER_S = 1.0


class BatchProducer:
    """Sends records in batches. Safe for any number of tasks of one event loop.

    aiokafka's `send` costs a future, a metadata check and a partitioner call for each record; a batch built here
    costs one append a record and one future a batch. A record or topic that fails does not affect the others.
    """

    def __init__(self, kafka: "KafkaSettings") -> None:
        self._kafka = kafka
        self._producer = RenewableProducer(kafka, on_metadata=self._note_partitions)
        self._partitioners: dict[str, StickyPartitioner] = {}
        self._facts = TopicFacts(kafka)
        self._arrivals = None if kafka.arrivals_dir is None else ArrivalSignals(kafka.arrivals_dir)
        self._limit_bytes = record_limit_bytes(kafka)
        self._codec = CODECS[kafka.compression_type]
        # Past this the broker has not answered although the client still waits: an idempotent producer never
        # gives up by itself.
        self._timeout_s = kafka.request_timeout_ms / 1000

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError: the broker does not answer.
            NotServedError: the broker does not let us in.
        """
        await self._producer.start()

    async def close(self) -> None:
        """Flush what is under way and disconnect."""
        await self._producer.close()
        if self._arrivals is not None:
            self._arrivals.close()

    async def send(self, records: "Iterable[OutRecord]") -> None:
        """Return when every record is acknowledged by all in-sync replicas. See `send_each`.

        Raises:
            PayloadTooLargeError, RecordRefusedError: a record can never be written; others may be.
            UnavailableError: at least one record may not have been written; sending all again is harmless to
                readers that know duplicates by id.
            NotServedError: the broker does not serve us.
        """
        failures = [outcome for outcome in await self.send_each(list(records)) if outcome is not None]
        if failures:
            raise next((error for error in failures if not isinstance(error, UnavailableError)), failures[0])

    async def send_each(self, records: "Sequence[OutRecord]") -> "Sequence[InferlaneError | None]":
        """Return for each record None if all in-sync replicas have it, else the error.

        A record's partition is the CRC-32 of its key, as librdkafka's `consistent` partitioner, unless it may go
        together with others. `PayloadTooLargeError` and `RecordRefusedError` last; after `UnavailableError` the
        record may have been written and may be sent again. `NotServedError`: the broker does not serve us.
        """
        outcomes: list[InferlaneError | None] = [None] * len(records)
        placed = (await self._place(records, outcomes)).items()
        until_s = asyncio.get_running_loop().time() + self._timeout_s
        groups = [PlacedRecords(topic, partition, numbers, until_s) for (topic, partition), numbers in placed]
        left = await self._send_at_once(groups, records) if groups else ()
        if len(left) == 1:
            await self._send_group(left[0], records, outcomes)
        elif left:
            await all_done(self._send_group(group, records, outcomes) for group in left)
        return outcomes

    async def _place(
        self, records: "Sequence[OutRecord]", outcomes: "list[InferlaneError | None]"
    ) -> dict[tuple[str, int], list[int]]:
        """Return the numbers of the records by topic and partition, without those that cannot be sent."""
        groups: dict[tuple[str, int], list[int]] = {}
        moved: set[str] = set()
        failed: dict[str, InferlaneError] = {}
        for number, record in enumerate(records):
            topic = record.topic
            if topic in failed:
                outcomes[number] = failed[topic]
                continue
            try:
                size_bytes = check_size(record, self._limit_bytes)
                partitioner = self._partitioners.get(topic) or await self._learn_partitions(topic)
            except PayloadTooLargeError as error:
                outcomes[number] = error
                continue
            except InferlaneError as error:
                outcomes[number] = failed[topic] = error
                continue
            if record.max_run:
                if topic not in moved:
                    partitioner.move_on()
                    moved.add(topic)
                partition = partitioner.place(size_bytes, max_run=record.max_run)
            else:
                partition = crc32(record.key) % partitioner.partitions
            groups.setdefault((topic, partition), []).append(number)
        return groups

    async def _send_at_once(
        self, groups: "Sequence[PlacedRecords]", records: "Sequence[OutRecord]"
    ) -> "Sequence[PlacedRecords]":
        """Send a batch for each group without any task, where that can be; return the groups that are left."""
        if self._producer.is_spent or any(self._facts.limit_bytes(group.topic) is not None for group in groups):
            return groups
        producer = self._producer.current
        batches: dict[TopicPartition, OutBatch] = {}
        for group in groups:
            batch = one_small_batch(records, group.numbers, producer.create_batch, codec=self._codec)
            if batch is None:
                return groups
            batches[TopicPartition(group.topic, group.partition)] = batch
        sent = producer.send_at_once({partition: batch.builder for partition, batch in batches.items()})
        if sent is None:
            return groups
        await sent.wait(_LOOK_AFTER_S)
        for group, (partition, batch) in zip(groups, batches.items(), strict=True):
            future = sent.futures[partition]
            if future.done() and future.exception() is None:
                if self._arrivals is not None:
                    self._arrivals.send_soon(group.topic, written_batch(batch.builder, future.result()))
            else:
                group.sent = SentBatch(producer, batch, asyncio.shield(future))
        return [group for group in groups if group.sent is not None]

    async def _send_group(
        self, group: PlacedRecords, records: "Sequence[OutRecord]", outcomes: "list[InferlaneError | None]"
    ) -> None:
        try:
            async with asyncio.timeout_at(group.until_s):
                while group.numbers:
                    await self._send_once(group, records, outcomes)
                    if self._arrivals is not None:
                        self._arrivals.send_soon(group.topic)
        except (*BROKER_ERRORS, InferlaneError) as error:
            failure = error if isinstance(error, InferlaneError) else write_failure(self._kafka, group.topic, error)
            for number in group.numbers:
                outcomes[number] = failure

    async def _send_once(
        self, group: PlacedRecords, records: "Sequence[OutRecord]", outcomes: "list[InferlaneError | None]"
    ) -> None:
        """Send the rest of the group, and leave in it the records to send again in other batches."""
        sent, group.sent = group.sent, None
        batches = await self._batches(group, records, outcomes) if sent is None else [sent.batch]
        group.numbers = []
        # Once a batch is refused, later ones of its partition are refused for their sequence: send one at a time then.
        while batches:
            now, batches = (batches[:1], batches[1:]) if group.is_alone else (batches, [])
            try:
                await self._write(group, now, outcomes, sent)
            except BaseException:
                group.numbers += [number for batch in (*now, *batches) for number in batch.numbers]
                raise

    async def _batches(
        self, group: PlacedRecords, records: "Sequence[OutRecord]", outcomes: "list[InferlaneError | None]"
    ) -> list[OutBatch]:
        producer = await self._producer.renewed()
        limit_bytes = self._facts.limit_bytes(group.topic)
        make = producer.create_batch if limit_bytes is None else lambda: make_builder(limit_bytes)
        batches = []
        for batch in cut_into_batches(records, group.numbers, make, alone=group.is_alone):
            if limit_bytes is not None and batch.builder.size() > limit_bytes:
                outcomes[batch.numbers[0]] = over_topic_limit(group.topic, batch.builder.size(), limit_bytes)
            else:
                batches.append(batch)
        return batches

    async def _write(
        self,
        group: PlacedRecords,
        batches: "Sequence[OutBatch]",
        outcomes: "list[InferlaneError | None]",
        sent: SentBatch | None,
    ) -> None:
        """Send the batches, unless the only one is `sent`, and note what the broker says to each."""
        producer = self._producer.current if sent is None else sent.producer
        futures = [] if sent is None else [sent.future]
        sizes = [batch.builder.size() for batch in batches]
        try:
            for batch in batches[len(futures) :]:
                future = await producer.send_batch(batch.builder, group.topic, partition=group.partition)
                futures.append(future)
            await self._wait_for(group, futures)
        except BaseException:
            # Nobody reads their results.
            for future in futures:
                _ = future.cancel() or future.exception()
            raise
        for batch, size_bytes, future in zip(batches, sizes, futures, strict=True):
            if (error := future.exception()) is None:
                continue
            remedy = remedy_of(error)
            # The broker did not count the refused batch in its sequence; the producer did.
            is_spent = remedy is Remedy.RECONNECT or (remedy is Remedy.REFUSE and self._kafka.idempotence)
            if is_spent:
                self._producer.note_spent(producer)
            if isinstance(error, UnknownTopicOrPartitionError):
                # Before the next try the broker is asked whether the topic is gone for good.
                self._partitioners.pop(group.topic, None)
                self._lose(outcomes, batch, UnavailableError(f"the broker does not know {group.topic} now"))
            elif isinstance(error, TOO_LARGE):
                await self._facts.learn_limit(group.topic, refused_bytes=size_bytes)
                group.numbers += batch.numbers
            elif remedy is Remedy.REFUSE and len(batch.numbers) > 1:
                group.is_alone = True
                group.numbers += batch.numbers
            else:
                self._lose(outcomes, batch, write_failure(self._kafka, group.topic, error))

    @staticmethod
    def _lose(outcomes: "list[InferlaneError | None]", batch: "OutBatch", error: InferlaneError) -> None:
        for number in batch.numbers:
            outcomes[number] = error

    async def _wait_for(self, group: PlacedRecords, futures: "Iterable[asyncio.Future[object]]") -> None:
        """Return when the broker has answered for each.

        Raises:
            TopicMissingError: the topic is gone.
            UnavailableError: the partition is gone.
        """
        waiting = set(futures)
        while True:
            _, waiting = await asyncio.wait(waiting, timeout=_LOOK_AFTER_S)
            if not waiting:
                return
            await self._check_is_there(group.topic, group.partition)

    async def _check_is_there(self, topic: str, partition: int) -> None:
        try:
            partitions = await self._facts.partitions(topic, self._producer.current.client)
        except RecordRefusedError:
            self._partitioners.pop(topic, None)
            drop_batches(self._producer.current, topic)
            raise
        except UnavailableError:
            # The topic does not count as missing yet.
            return
        if partition >= partitions:
            self._partitioners.pop(topic, None)
            drop_batches(self._producer.current, topic)
            raise UnavailableError(f"{topic} has {partitions} partitions now, {partition} is gone; it is sent again")

    async def _learn_partitions(self, topic: str) -> StickyPartitioner:
        with broker_errors(self._kafka.bootstrap_servers):
            async with asyncio.timeout(self._timeout_s):
                partitions = await self._facts.partitions(topic, self._producer.current.client)
        partitioner = self._partitioners[topic] = StickyPartitioner(partitions, first=secrets.randbelow(partitions))
        return partitioner

    def _note_partitions(self, cluster: "ClusterMetadata") -> None:
        """If a topic's partitions have changed, read their number again with the next record."""
        for topic, partitioner in list(self._partitioners.items()):
            if (now := cluster.partitions_for_topic(topic)) and len(now) != partitioner.partitions:
                log.info("partitions_changed", topic=topic, before=partitioner.partitions, now=len(now))
                del self._partitioners[topic]

"""Read a topic from a point in time to its end, without a group."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from aiokafka import ConsumerRecord, TopicPartition

from inferlane.runtime.kafka.clients import broker_errors, make_consumer

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.runtime.settings import KafkaSettings

# Records that are handled in one turn of the event loop, about 5 ms. More delays the data path, fewer take longer.
_RECORDS_A_TURN = 100
_POLL_MS = 200


def read_from(
    kafka: "KafkaSettings", starts: Mapping[TopicPartition, int]
) -> AsyncGenerator[Sequence[ConsumerRecord], None]:
    """Yield the records of the partitions from these offsets to the present end. As `read_since`.

    Raises:
        UnavailableError: the broker does not answer, or stops answering on the way.
    """

    async def seek(consumer: "AIOKafkaConsumer") -> dict[TopicPartition, int]:
        ends = await consumer.end_offsets(list(starts))
        for partition, start in starts.items():
            consumer.seek(partition, start)
        # Fetch even if nothing seems to be left: the first fetch corrects the end.
        return {partition: max(start, ends[partition]) for partition, start in starts.items()}

    return _read(kafka, list(starts), seek)


def read_since(
    kafka: "KafkaSettings", partitions: Collection[TopicPartition], *, since_s: float
) -> AsyncGenerator[Sequence[ConsumerRecord], None]:
    """Yield the records of the partitions from `since_s` to the present end. Has no group and commits nothing.

    Raises:
        UnavailableError: the broker does not answer, or stops answering on the way.
    """
    return _read(kafka, partitions, partial(_seek, partitions=partitions, since_s=since_s))


async def _read(
    kafka: "KafkaSettings",
    partitions: Collection[TopicPartition],
    seek: Callable[["AIOKafkaConsumer"], Awaitable[dict[TopicPartition, int]]],
) -> AsyncGenerator[Sequence[ConsumerRecord], None]:
    if not partitions:
        return
    consumer = make_consumer(kafka, group=None, fetch_max_wait_ms=_POLL_MS)
    try:
        with broker_errors(kafka.bootstrap_servers):
            await consumer.start()
            consumer.assign(list(partitions))
            ends = await seek(consumer)
        fresh = set(ends)
        while ends:
            with broker_errors(kafka.bootstrap_servers):
                async with asyncio.timeout(kafka.request_timeout_ms / 1000):
                    batch = await _take(consumer, ends, fresh)
            for records in batch.values():
                yield records
            # Lets other tasks of the event loop run even if everything is in memory.
            await asyncio.sleep(0)
    finally:
        await consumer.stop()


async def read_added_partitions(consumer: "AIOKafkaConsumer", topic: str) -> None:
    """Let a consumer without a group also read partitions that were added to `topic`, from their first record on."""
    ours = consumer.assignment()
    there = consumer.partitions_for_topic(topic) or ()
    added = [TopicPartition(topic, number) for number in sorted(there) if TopicPartition(topic, number) not in ours]
    if not added:
        return
    positions = {partition: await consumer.position(partition) for partition in ours}
    consumer.assign([*ours, *added])
    for partition, position in positions.items():
        consumer.seek(partition, position)
    await consumer.seek_to_beginning(*added)


async def _seek(
    consumer: "AIOKafkaConsumer", partitions: Collection[TopicPartition], since_s: float
) -> dict[TopicPartition, int]:
    """Go to the first record of `since_s` or later; the end of each partition that has one."""
    starts = await consumer.offsets_for_times(dict.fromkeys(partitions, int(since_s * 1000)))
    ends = await consumer.end_offsets(list(partitions))
    ahead = {}
    for partition in partitions:
        start = starts.get(partition)
        if start is None or start.offset >= ends[partition]:
            consumer.pause(partition)
        else:
            consumer.seek(partition, start.offset)
            ahead[partition] = ends[partition]
    return ahead


async def _take(
    consumer: "AIOKafkaConsumer", ends: dict[TopicPartition, int], fresh: set[TopicPartition]
) -> dict[TopicPartition, list[ConsumerRecord]]:
    """Return the next records, none at the end; removes from `ends` each partition that is read.

    `fresh` are the partitions of which nothing was fetched so far. Their first fetch corrects the end, because Tansu
    returns the start of the last batch. Only the first: later ones would include records written in response.
    """
    batch: dict[TopicPartition, list[ConsumerRecord]] = {}
    while ends and not batch:
        batch = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_A_TURN)
        for partition in fresh.intersection(batch):
            ends[partition] = max(ends[partition], consumer.last_stable_offset(partition) or 0)
            fresh.remove(partition)
        # Compare the position: the last offset before the end may have no record.
        for partition in [partition for partition, end in ends.items() if await consumer.position(partition) >= end]:
            del ends[partition]
            consumer.pause(partition)
    return batch

"""Faults of topics and groups: partitions added, a topic deleted, offsets set back."""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewPartitions
from aiokafka.errors import CommitFailedError, for_code

from control_plane.topic_admin import create_topics
from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.clients import client_arguments, make_admin, partitions_of

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

# More cost every consumer of the run more than they show.
_MOST_PARTITIONS = 6
_WITHIN_S = 60.0
# Of each partition. All of them would bring back every record that ever killed, and each costs the pool some deaths.
_RECORDS_AGAIN = 200
_POLL_S = 0.2


async def add_partition(settings: "Settings", topic: str) -> int:
    """Give the topic one partition more, up to a bound; return how many it has now."""
    count = len(await partitions_of(settings.kafka, topic))
    if count >= _MOST_PARTITIONS:
        return count
    admin = make_admin(settings.kafka)
    try:
        await admin.start()
        response = await admin.create_partitions({topic: NewPartitions(total_count=count + 1)})
        for _, code, *more in response.topic_errors:
            if code:
                raise for_code(code)(f"{topic}: {more}")
    finally:
        await admin.close()
    return count + 1


async def delete_topics(settings: "Settings", topics: Iterable[str]) -> None:
    """Delete the topics; returns when the broker shows them no more."""
    names = set(topics)
    admin = make_admin(settings.kafka)
    try:
        await admin.start()
        await admin.delete_topics(list(names))
        async with asyncio.timeout(_WITHIN_S):
            while names & set(await admin.list_topics()):  # noqa: ASYNC110 - a broker has no event for it
                await asyncio.sleep(_POLL_S)
    finally:
        await admin.close()


async def make_topics_again(settings: "Settings", versions: Iterable[tuple[str, str]]) -> None:
    """Create what is missing; a broker may still be deleting what had the name before."""
    deadline_s = time.monotonic() + _WITHIN_S
    while True:
        try:
            await create_topics(settings.kafka, settings.stack.names, settings.webhooks, versions)
        except Exception:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return


async def set_back_offsets(settings: "Settings", model: str, version: str) -> None:
    """Let the pool, which must have no process now, begin again some records before where it stood."""
    consumer = AIOKafkaConsumer(
        **client_arguments(settings.kafka),
        group_id=settings.stack.names.worker_group(model, version),
        enable_auto_commit=False,
    )
    partitions: list[TopicPartition] = []
    for lane in Lane:
        partitions += await partitions_of(settings.kafka, settings.stack.names.work_topic(model, version, lane))
    try:
        await consumer.start()
        consumer.assign(partitions)
        begins = await consumer.beginning_offsets(partitions)
        stood = {partition: await consumer.committed(partition) or 0 for partition in partitions}
        again = {partition: max(begins[partition], stood[partition] - _RECORDS_AGAIN) for partition in partitions}
        async with asyncio.timeout(_WITHIN_S):
            while not await _commits(consumer, again):  # noqa: ASYNC110 - a broker has no event for it
                # A member that was killed is one until its session ends.
                await asyncio.sleep(_POLL_S)
    finally:
        await consumer.stop()


async def _commits(consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int]) -> bool:
    try:
        await consumer.commit(offsets)
    except CommitFailedError:
        return False
    return True

"""Asks the broker, now and then, how far a consumer is behind."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import IllegalStateError, KafkaError

from inferlane.runtime.kafka.progress import Progress

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

log = structlog.get_logger(__name__)

# Often enough to see a consumer stand still well within the limit; each time costs the broker two small calls.
_CHECKS_A_LIMIT = 6
_LONGEST_INTERVAL_S = 5.0


async def watch_progress(
    consumer: "AIOKafkaConsumer", progress: Progress, *, stuck_after_s: float, is_excused: Callable[[], bool]
) -> None:
    """Keep `progress` told of the ends of the assigned partitions, until cancelled.

    A broker that does not answer, or `is_excused`, excuses the consumer: a restart would not make it move.
    """
    interval_s = min(_LONGEST_INTERVAL_S, stuck_after_s / _CHECKS_A_LIMIT)
    while True:
        await asyncio.sleep(interval_s)
        try:
            async with asyncio.timeout(_LONGEST_INTERVAL_S):
                await _compare(consumer, progress)
        except IllegalStateError:
            # Revoked meanwhile: the next look is at what is ours then.
            continue
        except (KafkaError, OSError, TimeoutError) as error:
            log.debug("progress_not_checked", error=repr(error))
            progress.excuse()
        if is_excused():
            progress.excuse()


async def _compare(consumer: "AIOKafkaConsumer", progress: Progress) -> None:
    ours = consumer.assignment()
    if not ours:
        return
    fresh = [partition for partition in ours if not progress.knows(partition.partition)]
    if fresh:
        await _note_start(consumer, progress, fresh)
    ends = await consumer.end_offsets(ours)
    # Asked for an end, Tansu says where the last batch begins; a fetch knows better, once there was one. What an open
    # transaction holds back is not to be had yet, by nobody.
    ends = {
        partition.partition: max(ends[partition], consumer.last_stable_offset(partition) or 0)
        for partition in ours & consumer.assignment()
    }
    progress.note_ends(ends, now_s=time.monotonic())


async def _note_start(consumer: "AIOKafkaConsumer", progress: Progress, fresh: "list[TopicPartition]") -> None:
    """Where the group stood when the partitions became ours; retention may have moved the beginning past it."""
    beginnings = await consumer.beginning_offsets(fresh)
    for partition in fresh:
        committed = await consumer.committed(partition) or 0
        progress.note_done(partition.partition, max(committed, beginnings[partition]))

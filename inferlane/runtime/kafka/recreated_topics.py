"""Notice that a topic was deleted and created again, or that its broker forgot it, and read it from its first record.

A position past the end of the log is the sign. Apache Kafka refuses such a fetch, and aiokafka then starts over; Tansu
answers that there is nothing, so the consumer would stay silent until as many records have come again.
"""

from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)

# The end is asked for once more before records are read again; too short misses a busy broker, which costs one fetch.
_ASK_WITHIN_MS = 5_000


async def start_over_past_end(fetcher: Any, assignment: Any, request: Any) -> None:
    """Read each partition of the fetch from its first record if its log ends before the position that was asked for.

    A replica that has just become the leader may tell an older end for a moment, but answers a question for the end
    only once it knows it.
    """
    behind = _past_end(assignment, request)
    if not behind:
        return
    try:
        ends = await fetcher.end_offsets(list(behind), _ASK_WITHIN_MS)
    except KafkaError as error:
        log.debug("end_not_told", partitions=[str(partition) for partition in behind], error=repr(error))
        return
    if not assignment.active:
        return
    for partition, position in behind.items():
        state = assignment.state_value(partition)
        end = max(ends.get(partition, position), state.lso)
        if end < position and state.has_valid_position and state.position == position:
            state.await_reset(OffsetResetStrategy.EARLIEST)
            # What was handed meanwhile: aiokafka looks for no position of a partition while it holds records of it.
            fetcher._records.pop(partition, None)  # noqa: SLF001 - aiokafka hides it
            log.warning(
                "topic_recreated",
                topic=partition.topic,
                partition=partition.partition,
                position=position,
                end=end,
                effect="it is read from its first record",
            )


def _past_end(assignment: Any, request: Any) -> "Mapping[TopicPartition, int]":
    """Return the positions that were asked for and are past the end that the broker told in its answer."""
    found = {}
    for topic, parts in request.topics:
        for number, position, _ in parts:
            partition = TopicPartition(topic, number)
            end: int | None = assignment.state_value(partition).lso
            if end is not None and 0 <= end < position:
                found[partition] = position
    return found

"""Notice that a topic was deleted and created again, or that its broker forgot it, and read it from its first record.

A position past the end of the log is one sign. Apache Kafka refuses such a fetch, and aiokafka then starts over; Tansu
answers that there is nothing, so the consumer would stay silent until as many records have come again. Where as many
have come before the consumer asked, it is the first batch of the new log, or one that begins before a position and ends
behind it although the batch before was read to its end.
"""

from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from inferlane.runtime.kafka.batch_head import BatchHead

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
            fetcher.start_over(state, partition, end=end)


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


class KnownLogs:
    """What a consumer has read of its partitions, by which another log in the place of one is noticed."""

    def __init__(self) -> None:
        # Of the last result of each partition, the end of its last batch, if that was read whole.
        self._ends: dict[TopicPartition, int] = {}
        # The CRC of each first batch.
        self._first: dict[TopicPartition, bytes] = {}
        # What was taken for another log before, position and CRC: a batch with a damaged offset comes again.
        self._taken_for_other: dict[TopicPartition, tuple[int, bytes]] = {}

    def forget_ends(self) -> None:
        """Forget where partitions were read last: the assignment is another."""
        self._ends.clear()

    def note_end(self, partition: TopicPartition, end: int) -> None:
        """Note that the batch that ends there was read whole."""
        self._ends[partition] = end

    def has_read_first(self, partition: TopicPartition, raw: "bytes | memoryview") -> bool:
        """Return whether this batch was the first of the log."""
        head = BatchHead.of(raw)
        return head is not None and head.base_offset == 0 and head.crc == self._first.get(partition)

    def is_other(self, partition: TopicPartition, raw: "bytes | memoryview", position: int) -> bool:
        """Return whether a fetch at this position that begins with these bytes is of another log; note the log.

        To be called once for each result.
        """
        end, head = self._ends.pop(partition, None), BatchHead.of(raw)
        if head is None:
            return False
        if head.base_offset == 0:
            self._first[partition] = head.crc
        if position != end or not head.base_offset < position < head.end_offset:
            return False
        seen = position, head.crc
        is_new = self._taken_for_other.get(partition) != seen
        self._taken_for_other[partition] = seen
        return is_new

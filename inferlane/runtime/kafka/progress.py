"""Whether a consumer moves: liveness is progress, since consumers are known to stand still without an error."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import IllegalStateError, KafkaError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition


class ConsumerState(StrEnum):
    """What a consumer does. `blocked`: a part that it depends on is away, so a new process would not move either."""

    JOINING = "joining"
    IDLE = "idle"
    MOVING = "moving"
    BLOCKED = "blocked"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerHealth:
    """One consumer at a moment. `still_s`: how long records have waited on some partition with no progress there."""

    state: ConsumerState
    lag_records: int
    still_s: float


@dataclass(slots=True, kw_only=True)
class _Partition:
    next_offset: int
    end: int
    still_since_s: float | None = field(default=None)


class Progress:
    """Compares what is done with what the topic holds, partition by partition. Pure; `now_s` is monotonic."""

    def __init__(self, *, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._partitions: dict[int, _Partition] = {}
        self._is_excused = False

    def start_over(self) -> None:
        """Forget everything: after a rebalance it is not known here where the group stands."""
        self._partitions.clear()

    def note_done(self, partition: int, next_offset: int) -> None:
        """Note that every record before `next_offset` is done."""
        known = self._partitions.setdefault(partition, _Partition(next_offset=next_offset, end=next_offset))
        if next_offset > known.next_offset:
            known.next_offset = next_offset
            known.still_since_s = None

    def note_ends(self, ends: Mapping[int, int], *, now_s: float) -> None:
        """Compare with the end of each partition; one that nothing was noted of counts from its first known end."""
        self._is_excused = False
        for number, end in ends.items():
            known = self._partitions.setdefault(number, _Partition(next_offset=end, end=end))
            known.end = end
            if known.next_offset >= end:
                known.still_since_s = None
            elif known.still_since_s is None:
                known.still_since_s = now_s

    def excuse(self) -> None:
        """Note that nobody could move now: the time of standing still starts over."""
        self._is_excused = True
        for known in self._partitions.values():
            known.still_since_s = None

    def knows(self, partition: int) -> bool:
        """Whether something was noted of the partition since the last rebalance."""
        return partition in self._partitions

    def health(self, *, now_s: float) -> ConsumerHealth:
        """What the consumer does."""
        lag_records = sum(max(0, known.end - known.next_offset) for known in self._partitions.values())
        still = [known.still_since_s for known in self._partitions.values() if known.still_since_s is not None]
        still_s = now_s - min(still) if still else 0.0
        return ConsumerHealth(state=self._state(lag_records, still_s), lag_records=lag_records, still_s=still_s)

    def _state(self, lag_records: int, still_s: float) -> ConsumerState:
        if still_s > self._stuck_after_s:
            return ConsumerState.STUCK
        if self._is_excused:
            return ConsumerState.BLOCKED
        return ConsumerState.MOVING if lag_records else ConsumerState.IDLE


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

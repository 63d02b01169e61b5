"""Whether a consumer moves: liveness is progress, since consumers are known to stand still without an error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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

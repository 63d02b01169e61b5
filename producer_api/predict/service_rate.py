"""The service rate of a consumer group and the wait of a new record, from the group's offsets. Pure."""

import math
from dataclasses import dataclass

from inferlane.runtime.kafka.offsets import Position

# The half-life of the moving average. Too short follows the jumps that commits cause; too long keeps an outdated rate
# after the pool has grown.
_HALF_LIFE_S = 5.0
# A shorter backlog may be done but not committed yet, so it does not show that the group was busy.
_LEAST_BACKLOG = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observation:
    at_s: float
    position: Position


class ServiceRate:
    """Measures the records per second of a busy group, and the wait that follows. `at_s` is monotonic."""

    def __init__(self) -> None:
        self.records_a_second: float | None = None
        self._seen: _Observation | None = None
        self._moved_s = -math.inf

    @property
    def lag_records(self) -> int:
        """The consumer lag at the last note."""
        return self._seen.position.lag_records if self._seen else 0

    @property
    def record_s(self) -> float:
        """The seconds that one more record adds to the wait; 0 while the rate is not known."""
        return 1 / self.records_a_second if self.records_a_second else 0.0

    def note(self, position: Position, *, at_s: float) -> None:
        """Note the position of the group."""
        before, self._seen = self._seen, _Observation(at_s=at_s, position=position)
        done = position.committed - before.position.committed if before else 0
        if before is None or done > 0 or not position.lag_records or not before.position.lag_records:
            self._moved_s = at_s
        if before is None or done <= 0 or at_s <= before.at_s:
            return
        sample = done / (at_s - before.at_s)
        # Everything that was done had been waiting at the start, so the group was never idle.
        was_busy = before.position.lag_records >= max(done, _LEAST_BACKLOG)
        if was_busy and self.records_a_second is not None:
            kept = 0.5 ** ((at_s - before.at_s) / _HALF_LIFE_S)
            self.records_a_second = kept * self.records_a_second + (1 - kept) * sample
        elif was_busy or (self.records_a_second is not None and sample > self.records_a_second):
            # An idle group shows the rate of arrivals, not its capacity: such a sample may only raise the rate.
            self.records_a_second = sample

    def expected_wait_s(self, *, now_s: float, newer_records: int = 0) -> float:
        """Return the seconds until a record that arrives now is done; `newer_records` arrived since the last note.

        A group that made no progress for a while despite a backlog is expected to make none for as long again: there
        is no better guess of how long an outage lasts. An unknown rate adds nothing.
        """
        lag_records = self.lag_records
        still_s = max(0.0, now_s - self._moved_s) if lag_records else 0.0
        # The time since the last note does not count as a standstill.
        still_s = still_s if self._seen and self._moved_s < self._seen.at_s else 0.0
        waiting = lag_records + newer_records
        return still_s + (waiting / self.records_a_second if self.records_a_second else 0.0)

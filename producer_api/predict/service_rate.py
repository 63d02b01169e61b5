"""How long a new record will wait in a topic, from what the broker says of its group. Pure."""

import math
from dataclasses import dataclass

from inferlane.runtime.kafka.offsets import Position

# Of a rate that changed at once, half is believed after this long. Short follows a rate that commits make jump, long
# keeps an old rate when a pool grew.
_HALF_LIFE_S = 5.0
# Fewer than this may be done and only not committed yet: they say nothing of what a group can do.
_LEAST_BACKLOG = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observation:
    at_s: float
    position: Position


class ServiceRate:
    """The records a second that a group finishes while it has work, and the wait that follows. `at_s` is monotonic."""

    def __init__(self) -> None:
        self.records_a_second: float | None = None
        self._seen: _Observation | None = None
        self._moved_s = -math.inf

    @property
    def lag_records(self) -> int:
        """What waited when it was last seen."""
        return self._seen.position.lag_records if self._seen else 0

    @property
    def record_s(self) -> float:
        """The seconds that a record more adds to the wait; 0 of a rate that was never seen."""
        return 1 / self.records_a_second if self.records_a_second else 0.0

    def note(self, position: Position, *, at_s: float) -> None:
        """Note where the group stands now."""
        before, self._seen = self._seen, _Observation(at_s=at_s, position=position)
        done = position.committed - before.position.committed if before else 0
        if before is None or done > 0 or not position.lag_records or not before.position.lag_records:
            self._moved_s = at_s
        if before is None or done <= 0 or at_s <= before.at_s:
            return
        sample = done / (at_s - before.at_s)
        # All that was done had been waiting when the time began, so the group never ran out of work.
        was_busy = before.position.lag_records >= max(done, _LEAST_BACKLOG)
        if was_busy and self.records_a_second is not None:
            kept = 0.5 ** ((at_s - before.at_s) / _HALF_LIFE_S)
            self.records_a_second = kept * self.records_a_second + (1 - kept) * sample
        elif was_busy or (self.records_a_second is not None and sample > self.records_a_second):
            # A group with little to do shows how much came, not how much it can do: that only ever raises.
            self.records_a_second = sample

    def expected_wait_s(self, *, now_s: float, newer_records: int = 0) -> float:
        """Seconds until a record that comes now is done; `newer_records` came since the last note.

        A group that has stood still for a while with work before it is expected to stand still as long again: there is
        no better guess of how long an outage lasts. A rate that was never seen adds nothing.
        """
        lag_records = self.lag_records
        still_s = max(0.0, now_s - self._moved_s) if lag_records else 0.0
        # Between two notes nobody looks, which is not standing still.
        still_s = still_s if self._seen and self._moved_s < self._seen.at_s else 0.0
        waiting = lag_records + newer_records
        return still_s + (waiting / self.records_a_second if self.records_a_second else 0.0)

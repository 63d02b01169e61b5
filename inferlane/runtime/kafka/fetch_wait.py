"""How long the broker may hold a fetch that found nothing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from inferlane.contracts.naming import Lane

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

# Of the time that a lane has been empty, the share that the next record may wait at the broker. It adds this much to
# the pause that a client made anyway; a larger one is felt, a smaller one wakes an idle machine more often.
_SHARE_OF_PAUSE = 0.01
# Nobody waits for a single bulk record.
_BULK_BUSY_MS = 50
_BULK_IDLE_MS = 1_000


@dataclass(frozen=True, slots=True)
class FetchWait:
    """The wait in milliseconds right after a record, and the longest, which it grows to while nothing comes.

    It matters on a broker that does not wake a waiting fetch, as Tansu does not: there it is a floor of the latency,
    and a short one asks hundreds of times a second for what is not there.
    """

    busy_ms: int
    idle_ms: int

    @classmethod
    def for_lane(cls, settings: "Settings", lane: Lane) -> Self:
        """What the settings say for this lane."""
        busy_ms, idle_ms = settings.fetch_max_wait_ms, settings.idle_fetch_max_wait_ms
        if lane is Lane.BULK:
            busy_ms, idle_ms = max(busy_ms, _BULK_BUSY_MS), max(idle_ms, _BULK_IDLE_MS)
        return cls(busy_ms, max(busy_ms, idle_ms))

    def after(self, empty_s: float) -> int:
        """Return the wait of a lane that has been empty for so long, in milliseconds."""
        return min(self.idle_ms, max(self.busy_ms, int(empty_s * 1000 * _SHARE_OF_PAUSE)))

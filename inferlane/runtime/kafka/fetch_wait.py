"""How long a consumer waits between two fetches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.fetcher import rest_between_fetches
from inferlane.runtime.kafka.handed_batches import handed_to

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.runtime.kafka.arrivals import ArrivalListener
    from inferlane.runtime.settings import KafkaSettings

# The next record may wait at the broker for this share of the time that the lane has been empty, on top of the pause
# that the client made anyway. A larger share adds latency, a smaller one wakes an idle machine more often.
_SHARE_OF_PAUSE = 0.01
# With signals a consumer needs no short wait: its own fetches find only records of producers without signals. Shorter
# makes empty fetches between the batches of a light load; longer delays those records.
_SIGNALLED_SHARE_OF_PAUSE = 0.02
_SIGNALLED_BUSY_MS = 50
_SIGNALLED_IDLE_MS = 2_000
# No client waits for a single bulk record.
_BULK_BUSY_MS = 50
_BULK_IDLE_MS = 1_000


@dataclass(frozen=True, slots=True)
class FetchWait:
    """The wait of a fetch in milliseconds right after a record, and the longest, to which it grows in an empty lane.

    It matters on a broker that does not wake a waiting fetch, such as Tansu: there it is a floor of the latency, and a
    short wait polls an empty topic hundreds of times a second. If producers send signals
    (`inferlane.runtime.kafka.arrivals`), it matters only for the records of other producers.
    """

    busy_ms: int
    idle_ms: int
    share_of_pause: float = _SHARE_OF_PAUSE

    @classmethod
    def for_lane(cls, kafka: "KafkaSettings", lane: Lane) -> Self:
        """Return the waits of this lane by the settings."""
        busy_ms, idle_ms, share = kafka.fetch_max_wait_ms, kafka.idle_fetch_max_wait_ms, _SHARE_OF_PAUSE
        if kafka.rests_dir is not None:
            busy_ms, idle_ms = max(busy_ms, _SIGNALLED_BUSY_MS), max(idle_ms, _SIGNALLED_IDLE_MS)
            share = _SIGNALLED_SHARE_OF_PAUSE
        if lane is Lane.BULK:
            busy_ms, idle_ms = max(busy_ms, _BULK_BUSY_MS), max(idle_ms, _BULK_IDLE_MS)
        return cls(busy_ms, max(busy_ms, idle_ms), share)

    def after(self, empty_s: float) -> int:
        """Return the wait of a lane that has been empty for so long, in milliseconds."""
        return min(self.idle_ms, max(self.busy_ms, int(empty_s * 1000 * self.share_of_pause)))


def take_what_is_handed(consumer: "AIOKafkaConsumer", arrivals: "ArrivalListener", *, wakes_fetches: bool) -> None:
    """Take small batches with their signals, and rest between fetches.

    If the broker `wakes_fetches`, the consumer rests only while batches come so.
    """
    if wakes_fetches:
        arrivals.listen(handed_to(consumer), effect="every batch is fetched")
    else:
        arrivals.listen(handed_to(consumer))
    rest_between_fetches(consumer, arrivals, wakes_fetches=wakes_fetches)

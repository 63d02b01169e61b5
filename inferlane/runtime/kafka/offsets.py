"""Decide which offsets may be committed: never one past an unfinished record."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Partition = TypeVar("Partition")


@dataclass(slots=True, eq=False)
class Ticket(Generic[Partition]):
    """One fetched batch: the offset after its last record, for each partition that it touched."""

    next_offsets: Mapping[Partition, int]
    done: bool = field(default=False)


class OffsetTracker(Generic[Partition]):
    """Tickets in the order of their batches. Pure; one event loop.

    A finished ticket waits for all earlier ones. That also delays partitions that the unfinished ticket did not
    touch: it costs a little redelivery after a crash, and saves a ledger for each partition.
    """

    def __init__(self) -> None:
        self._open: deque[Ticket[Partition]] = deque()
        self._committable: dict[Partition, int] = {}

    def begin(self, next_offsets: Mapping[Partition, int]) -> Ticket[Partition]:
        """Note records that were fetched and are not done."""
        ticket = Ticket(next_offsets)
        self._open.append(ticket)
        return ticket

    def finish(self, ticket: Ticket[Partition]) -> None:
        """Note that every record of the ticket has a durable result."""
        ticket.done = True
        while self._open and self._open[0].done:
            self._committable.update(self._open.popleft().next_offsets)

    def take_committable(self) -> dict[Partition, int]:
        """Return what may be committed and was not returned before."""
        committable, self._committable = self._committable, {}
        return committable

    def put_back(self, offsets: Mapping[Partition, int]) -> None:
        """Take back offsets that could not be committed."""
        self._committable = {**offsets, **self._committable}

    def forget(self) -> None:
        """Drop everything: others own the partitions now. Later `finish` calls of dropped tickets have no effect."""
        self._open.clear()
        self._committable.clear()

    @property
    def has_committable(self) -> bool:
        """Whether `take_committable` would return something."""
        return bool(self._committable)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is fetched and unfinished."""
        return not self._open


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic and the group that reads it."""

    topic: str
    group: str


@dataclass(frozen=True, slots=True)
class PartitionPosition:
    """One partition: the first offset that retention left, what the group committed (None: never), and the end."""

    beginning: int
    committed: int | None
    end: int

    @property
    def done(self) -> int:
        """The offset before which nothing waits: records that retention removed do not count."""
        return max(self.committed or 0, self.beginning)

    @property
    def lag_records(self) -> int:
        """The number of records that wait."""
        return max(0, self.end - self.done)


@dataclass(frozen=True, slots=True)
class Position:
    """Sums over the partitions of a topic: what the group committed, and the end."""

    committed: int
    end: int

    @property
    def lag_records(self) -> int:
        return max(0, self.end - self.committed)

    @classmethod
    def of(cls, partitions: "Sequence[PartitionPosition]") -> "Position":
        """Return the sums."""
        return cls(committed=sum(part.done for part in partitions), end=sum(part.end for part in partitions))

"""Which offsets may be committed: never one past a record whose work is not done."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Partition = TypeVar("Partition")


@dataclass(slots=True, eq=False)
class Ticket(Generic[Partition]):
    """One take: the offset after its last record, for each partition that it touched."""

    next_offsets: Mapping[Partition, int]
    done: bool = field(default=False)


class OffsetTracker(Generic[Partition]):
    """Tickets in the order of their takes. Pure; one event loop.

    A ticket that is done waits for all earlier ones. That holds back a partition that an unfinished ticket did not
    touch, which costs a little redelivery after a crash and saves a ledger for each partition.
    """

    def __init__(self) -> None:
        self._open: deque[Ticket[Partition]] = deque()
        self._committable: dict[Partition, int] = {}

    def begin(self, next_offsets: Mapping[Partition, int]) -> Ticket[Partition]:
        """Note records that were taken and are not done."""
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
        """Note that these were taken and could not be committed."""
        self._committable = {**offsets, **self._committable}

    def forget(self) -> None:
        """Drop everything: the partitions are somebody else's now. Later `finish` calls of dropped tickets are void."""
        self._open.clear()
        self._committable.clear()

    @property
    def has_committable(self) -> bool:
        """Whether `take_committable` would return something."""
        return bool(self._committable)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is taken and unfinished."""
        return not self._open

"""Where a consumer group stands in a topic: committed offsets, ends, and the lag between them. Pure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        """The offset before which nothing waits: what retention removed waits for nobody."""
        return max(self.committed or 0, self.beginning)

    @property
    def lag_records(self) -> int:
        """What waits."""
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
        """The sums."""
        return cls(committed=sum(part.done for part in partitions), end=sum(part.end for part in partitions))

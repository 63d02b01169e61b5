"""Which partition a record without an order takes: some together, then the next. Pure."""

import math

# Together they fill so much at most: a record by itself in each partition costs broker and consumers a batch each.
_FILL_BYTES = 64 * 1024
# About the golden ratio: partitions that follow one another lie far apart, so that they belong to different consumers
# where each has a range of them.
_STRIDE = 0.618


class Spread:
    """The `partitions` of one topic in turn. Source of the idea: KIP-480 and KIP-794, for records without a key."""

    def __init__(self, partitions: int, *, first: int) -> None:
        """Begin at `first`, modulo `partitions`: not every process should begin at the same."""
        self.partitions = partitions
        steps = range(max(1, round(partitions * _STRIDE)), 2 * partitions)
        self._stride = next(step for step in steps if math.gcd(step, partitions) == 1)
        self._partition = first % partitions
        self._records = 0
        self._bytes = 0

    def move_on(self) -> None:
        """Take the next partition: the one before may have a batch under way."""
        self._partition = (self._partition + self._stride) % self.partitions
        self._records = self._bytes = 0

    def place(self, size_bytes: int, *, together: int) -> int:
        """The partition of a record of that size, of which at most `together` lie in one."""
        if self._records >= together or self._bytes >= _FILL_BYTES:
            self.move_on()
        self._records += 1
        self._bytes += size_bytes
        return self._partition

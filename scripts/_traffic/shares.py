"""Whether requests were split as the weights say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# A correct splitter exceeds this once in 16,000 shares; a share of 10 % seen as 13 % in 2,000 requests exceeds it.
TOLERATED_DEVIATIONS = 4.0
# A router applies a split when it has read the record, a moment after the API that answered. Shorter and the first
# requests may still go by the old weights; longer and every change of weights costs that time.
SPLIT_SETTLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One version's part of the answers beside its weight."""

    version: str
    weight: float
    count: int
    total: int

    @property
    def observed(self) -> float:
        return self.count / self.total if self.total else 0.0

    @property
    def tolerance(self) -> float:
        """Return how far the observed share may be off: four standard deviations of a binomial share."""
        if not self.total:
            return 0.0
        return TOLERATED_DEVIATIONS * math.sqrt(self.weight * (1 - self.weight) / self.total)

    @property
    def is_as_expected(self) -> bool:
        # The small term is for weights of 0 and 1, whose tolerance is 0 and which floats may miss by a bit.
        return self.total > 0 and abs(self.observed - self.weight) <= self.tolerance + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What became of the same routing keys when a version's weight was raised."""

    kept: int
    joined: int
    left: int


def compare_shares(weights: Mapping[str, float], counts: Mapping[str, int]) -> list[Share]:
    """Return a share for every version that has a weight or an answer; weights need not sum to 1."""
    total_weight, total = sum(weights.values()), sum(counts.values())
    return [
        Share(version=name, weight=weights.get(name, 0.0) / total_weight, count=counts.get(name, 0), total=total)
        for name in sorted({*weights, *counts})
    ]


def compare_routes(before: Mapping[str, str], after: Mapping[str, str], *, raised: str) -> Moves:
    """Count the keys that kept their version, that joined the raised version, and that left it or went elsewhere."""
    moved = [(before[key], after[key]) for key in before.keys() & after.keys() if before[key] != after[key]]
    joined = sum(1 for _, new in moved if new == raised)
    return Moves(kept=len(before.keys() & after.keys()) - len(moved), joined=joined, left=len(moved) - joined)

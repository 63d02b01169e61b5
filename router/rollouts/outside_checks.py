"""Checks on numbers from outside the outcome windows: a Prometheus query, and feedback. Pure.

Without a value there is no verdict: the rollout holds, reports what is missing, and pauses after its `max_wait`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from inferlane.contracts.lane_tallies import BUCKETS
from inferlane.contracts.outcome_token import NO_SEGMENT
from inferlane.contracts.rollout import Check, CheckOptions, Verdict
from router.rollouts.clusters import ClusterSums
from router.rollouts.statistics import Difference, Floats, unit_width

if TYPE_CHECKING:
    from inferlane.contracts.feedback import Sums

# The interval is tightest at this many pieces of feedback.
_TUNED_FOR = 1_000.0
# "Not worse by more than the margin" is wrong in at most one of twenty rollouts.
_ENOUGH_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReading:
    """The value of a query; None if there is none, and then why."""

    value: float | None = None
    missing: str = "it was not asked yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackReading:
    """Feedback on requests of the same days of both versions, summed up."""

    keyed: ClusterSums = field(default_factory=ClusterSums)
    # Pieces without a key: the candidate's count and excess, and the variance of that excess.
    free: float = 0.0
    free_excess: float = 0.0
    free_spread: float = 0.0
    # The mean square of all values: what a piece may differ by.
    size: float = 0.0
    counts: tuple[int, int] = (0, 0)
    totals: tuple[float, float] = (0.0, 0.0)

    def difference(self, *, alpha: float) -> Difference | None:
        """The candidate's mean less the stable version's, each bound wrong with at most `alpha / 2` at any time."""
        draws = self.keyed.total + self.free
        if not draws:
            return None
        estimate = (self.keyed.excess + self.free_excess) / draws
        # As if one more piece, or one more user, had the most extreme value: a few similar pieces are weak evidence.
        spread = self.keyed.spread(estimate, size=math.sqrt(self.size)) + self.free_spread
        spread += self.size if self.free else 0.0
        half = math.sqrt(spread / draws) * unit_width(draws, alpha=alpha, tuned_for=_TUNED_FOR)
        return Difference(estimate, estimate - half, estimate + half)


Reading = MetricReading | FeedbackReading
Days = Mapping[int, Mapping[int, "Sums"]]


def feedback_reading(candidate: Days, stable: Days) -> FeedbackReading:
    """Compare sums by day and segment: on days on which both versions have feedback."""
    keyed = ClusterSums()
    free = excess = spread = squares = 0.0
    counts, totals = [0, 0], [0.0, 0.0]
    for day in sorted(candidate.keys() & stable.keys()):
        sides = candidate[day], stable[day]
        for number, side in enumerate(sides):
            counts[number] += sum(held.count for held in side.values())
            totals[number] += sum(held.total for held in side.values())
            squares += sum(held.squares for held in side.values())
        keyed = keyed.plus(_by_bucket(sides[0]), _by_bucket(sides[1]))
        ours, theirs = (side.get(NO_SEGMENT) for side in sides)
        if ours is not None and theirs is not None and ours.count and theirs.count:
            mean, own, weight = theirs.total / theirs.count, ours.total / ours.count, ours.count / theirs.count
            free += ours.count
            excess += ours.total - ours.count * mean
            spread += _about(ours, own) + weight**2 * _about(theirs, mean)
    return FeedbackReading(
        keyed=keyed,
        free=free,
        free_excess=excess,
        free_spread=spread,
        size=squares / max(1, sum(counts)),
        counts=(counts[0], counts[1]),
        totals=(totals[0], totals[1]),
    )


def pieces_to_show(variance: float, *, margin: float) -> int:
    """About how many pieces of feedback on each version show an equal candidate to be no worse than by `margin`.

    `variance` is that of one piece, and no user gives more than one.
    """
    pieces = 10.0
    while math.sqrt(2 * variance) * unit_width(pieces, alpha=2 * _ENOUGH_ALPHA, tuned_for=_TUNED_FOR) > margin:
        pieces *= 1.05
    return int(round(pieces, 2 - len(f"{pieces:.0f}")))


def _about(sums: "Sums", mean: float) -> float:
    return max(0.0, sums.squares - 2 * mean * sums.total + mean * mean * sums.count)


def _by_bucket(side: Mapping[int, "Sums"]) -> tuple[Floats, Floats]:
    counts, totals = np.zeros((2, BUCKETS))
    for segment, held in side.items():
        if segment != NO_SEGMENT:
            counts[segment], totals[segment] = held.count, held.total
    return counts, totals


def judge_metric(options: CheckOptions, reading: Reading | None) -> Verdict:
    """Return what the value of a query says."""
    found = reading if isinstance(reading, MetricReading) else MetricReading()
    if found.value is None:
        return Verdict(check=Check.PROMETHEUS, says=f"no data: {found.missing}")
    is_high = options.max is not None and found.value > options.max
    is_low = options.min is not None and found.value < options.min
    bounds = [f"at most {options.max:g}"] if options.max is not None else []
    bounds += [f"at least {options.min:g}"] if options.min is not None else []
    return Verdict(
        check=Check.PROMETHEUS,
        is_failed=is_high or is_low,
        is_enough=not (is_high or is_low),
        says=f"{found.value:g}, {' and '.join(bounds)}",
        candidate=found.value,
    )


def judge_feedback(check: Check, options: CheckOptions, reading: Reading | None) -> Verdict:
    """Return what feedback says: worse by more than the margin, no worse than that, or not yet known."""
    found = reading if isinstance(reading, FeedbackReading) else FeedbackReading()
    sure, likely = found.difference(alpha=2 * options.alpha), found.difference(alpha=2 * _ENOUGH_ALPHA)
    few = min(found.counts)
    if sure is None or likely is None or few < options.min_count:
        which = "the candidate" if found.counts[0] <= found.counts[1] else "the stable version"
        says = f"no data: {few:,} of {options.min_count:,} pieces of feedback on {which}"
        return Verdict(check=check, says=says)
    is_failed, is_enough = sure.high < -options.margin, likely.low > -options.margin
    bounds = f"{likely.estimate:+.3g} ({likely.low:+.3g} to {likely.high:+.3g})"
    words = "worse" if is_failed else "no worse than by the margin" if is_enough else "not yet sure"
    return Verdict(
        check=check,
        is_failed=is_failed,
        is_enough=is_enough and not is_failed,
        says=f"{words}: {bounds}, the margin is {options.margin:g}",
        candidate=found.totals[0] / found.counts[0],
        stable=found.totals[1] / found.counts[1],
        candidate_requests=found.counts[0],
        stable_requests=found.counts[1],
        low=likely.low,
        high=likely.high,
    )

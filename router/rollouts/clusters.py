"""Evidence from requests with routing keys, which are correlated by key: sums by key bucket. Pure; numpy only.

The requests of one key always go to one version, so forty requests of one user are not forty draws. All of them count,
but they are judged by how much the *buckets* differ from the stable version in the same slots: the sum of
the candidate's residuals is compared with the square root of the sum of squared residuals by bucket (the variance of
clustered data: Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models"). One heavy user
makes both sums large, and so is no evidence, whatever the number of requests.

The standardized sum goes into a Gaussian mixture martingale (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", section 3.2), which is asymptotically an e-process.
"""

import math
from dataclasses import astuple, dataclass, field
from statistics import NormalDist

import numpy as np

from inferlane.contracts.lane_tallies import BUCKETS
from router.rollouts.statistics import Difference, Floats, PairedSums, unit_width

# The evidence is sharpest after about this many requests; it is valid at any number.
_TUNED_FOR = 1_000.0
_RHO2 = 8.0 / _TUNED_FOR
_SMALLEST_TAIL = 1e-300


def _zeros() -> Floats:
    return np.zeros(BUCKETS)


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """Sums over slots in which both versions had requests with keys.

    Arrays are `(buckets,)`: the candidate's requests, its events less those that the stable version would have had in
    the same slots; and the stable version's requests, and its events less its own mean, both weighted as they enter
    that expectation.
    """

    requests: Floats = field(default_factory=_zeros)
    residuals: Floats = field(default_factory=_zeros)
    stable_requests: Floats = field(default_factory=_zeros)
    stable_residuals: Floats = field(default_factory=_zeros)
    events: float = 0.0
    expected: float = 0.0

    def plus(self, ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> "ClusterSums":
        """These sums with one more slot: requests and events by bucket, of either version."""
        requests, events = ours
        stable_requests, stable_events = theirs
        total, stable_total = float(requests.sum()), float(stable_requests.sum())
        if not total or not stable_total:
            return self
        share, weight = float(stable_events.sum()) / stable_total, total / stable_total
        return ClusterSums(
            self.requests + requests,
            self.residuals + events - share * requests,
            self.stable_requests + weight * stable_requests,
            self.stable_residuals + weight * (stable_events - share * stable_requests),
            self.events + float(events.sum()),
            self.expected + share * total,
        )

    @property
    def total(self) -> float:
        """The candidate's requests."""
        return float(self.requests.sum())

    @property
    def excess(self) -> float:
        """The candidate's events beyond those that the stable version would have had."""
        return self.events - self.expected

    def spread(self, difference: float = 0.0, *, size: float = 1.0) -> float:
        """Return the variance of `excess`, where the candidate's share is larger by `difference`.

        As if each version had one more bucket of its mean size with events only (or values of `size`): a few similar
        buckets are weak evidence.
        """
        total = self.total
        if not total:
            return 0.0
        ours = self.residuals - difference * self.requests
        unseen = sum((size * total / np.count_nonzero(held)) ** 2 for held in (self.requests, self.stable_requests))
        return float((ours**2).sum() + (self.stable_residuals**2).sum() + unseen)

    def log_evidence(self, *, is_one_sided: bool = True) -> float:
        """Return the logarithm of the e-value that the candidate has more events; or another share of them."""
        return log_mixture(self.excess, self.spread(), self.total, is_one_sided=is_one_sided)


def log_mixture(total: float, spread: float, draws: float, *, is_one_sided: bool) -> float:
    """The logarithm of a Gaussian mixture e-value: a sum of `draws` draws with the variance `spread` around 0."""
    if not draws or not spread:
        return 0.0
    information = draws * _RHO2
    shrunk = total / math.sqrt(spread) * math.sqrt(information / (1 + information))
    value = shrunk**2 / 2 - math.log(1 + information) / 2
    if is_one_sided:
        value += math.log(max(2 * NormalDist().cdf(shrunk), _SMALLEST_TAIL))
    return value


def combined(free: PairedSums, keyed: ClusterSums, *, alpha: float, tuned_for: float) -> Difference | None:
    """Bounds of the difference over all requests, with a key or without; None before the first of them.

    Each is wrong with a probability of at most `alpha / 2`, at any time: equation 9 of the asymptotic confidence
    sequences, with the variance between buckets where there are keys.
    """
    draws = free.exposures + keyed.total
    if not draws:
        return None
    estimate = (free.events - free.expected + keyed.excess) / draws
    spread = keyed.spread(estimate)
    if free.exposures:
        spread += free.exposures * free.own_variance + free.variance
    half = math.sqrt(spread / draws) * unit_width(draws, alpha=alpha, tuned_for=tuned_for)
    return Difference(estimate, estimate - half, estimate + half)


def to_arrays(sums: ClusterSums) -> Floats:
    """Return the sums as one array `(4 * buckets + 2,)`."""
    *by_bucket, events, expected = astuple(sums)
    return np.concatenate([*by_bucket, [events, expected]])


def from_arrays(values: Floats) -> ClusterSums:
    """Return the sums of `to_arrays`.

    Raises:
        ValueError: the array has another shape.
    """
    requests, residuals, stable, stable_residuals = values[:-2].reshape(4, BUCKETS)
    return ClusterSums(requests, residuals, stable, stable_residuals, float(values[-2]), float(values[-1]))

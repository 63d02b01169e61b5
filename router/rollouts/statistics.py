"""The statistics of rollouts: evidence that is valid at any time (anytime-valid inference). Pure; numpy only.

Three tools, each valid at every moment at once, so that looking often costs nothing:

1. Counts: a grid-mixture e-process. Under "no difference" an event falls on the candidate with the probability of its
   share of the exposures, slot by slot, whatever the base rate does to both versions and whatever the weights are. The
   e-value is the mean over a grid of odds ratios of the likelihood ratio; it exceeds 1/alpha with a probability of at
   most alpha (Ville's inequality). Sources: Robbins 1970, "Statistical Methods Related to the Law of the Iterated
   Logarithm"; Johari, Koomen, Pekelis and Walsh 2022, "Always Valid Inference"; Lindon and Malek 2022, "Anytime-Valid
   Inference for Multinomial Count Data".
2. Differences: an asymptotic confidence sequence from sums. Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
   2024, "Time-uniform central limit theory and asymptotic confidence sequences", equation 9.
3. Distance of two distributions: Jensen and Shannon's, with base 2 logarithms, from 0 to 1. Source: Lin 1991.

Requests without a routing key are independent draws. Those with a key are correlated, and are compared by key bucket:
`router.rollouts.clusters`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID = 64
# The smallest odds ratio is 1.2: a rollout does not search for smaller differences. Above 200 there is nothing to gain.
_SMALLEST_ODDS, _LARGEST_ODDS = 1.2, 200.0
_MORE = np.linspace(math.log(_SMALLEST_ODDS), math.log(_LARGEST_ODDS), GRID)
MORE_ODDS: Floats = np.exp(_MORE)
"""Odds ratios of "the candidate has more of them"."""
OTHER_ODDS: Floats = np.exp(np.concatenate([-_MORE[::2], _MORE[::2]]))
"""Odds ratios of "the candidate has more or fewer of them"."""


def no_evidence() -> Floats:
    """Return the logarithms of the likelihood ratios before anything was counted: `(GRID,)`."""
    return np.zeros(GRID)


def log_ratios(candidate: float, stable: float, share: float, odds: Floats = MORE_ODDS) -> Floats:
    """What a slot adds to the evidence: `candidate` and `stable` events where the candidate had `share` of exposures.

    Counts may be fractions (a draw of several requests). A slot in which one version had no exposure says nothing.
    The same formula tests an absolute probability: `candidate` hits, `stable` misses, `share` the probability.
    """
    if not 0 < share < 1:
        return np.zeros_like(odds)
    scale = 1 - share + share * odds
    return np.asarray(candidate * np.log(odds / scale) - stable * np.log(scale))


def log_evidence(ratios: Floats) -> float:
    """Return the logarithm of the e-value of summed `log_ratios`."""
    largest = float(ratios.max())
    return largest + math.log(float(np.exp(ratios - largest).sum()) / ratios.size)


def log_mean(logs: Floats) -> float:
    """Return the logarithm of the mean of e-values, which is an e-value again."""
    return log_evidence(logs)


@dataclass(frozen=True, slots=True)
class Draws:
    """Independent draws in a slot: how many, and how many of them were events."""

    exposures: float
    events: float


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much the candidate's share of events exceeds the stable version's, with bounds that hold at any time."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedSums:
    """Sums over slots in which both versions had draws.

    `expected` are the candidate's events if it had failed as often as the stable version in the same slots; `spread` is
    the sum of squared candidate draws by stable draws, by which the variance of that expectation grows.
    """

    exposures: float = 0.0
    events: float = 0.0
    expected: float = 0.0
    spread: float = 0.0
    stable_exposures: float = 0.0
    stable_events: float = 0.0

    def plus(self, candidate: Draws, stable: Draws) -> "PairedSums":
        """These sums with one more slot; one in which a version had no draw changes nothing."""
        if candidate.exposures <= 0 or stable.exposures <= 0:
            return self
        return PairedSums(
            self.exposures + candidate.exposures,
            self.events + candidate.events,
            self.expected + candidate.exposures * stable.events / stable.exposures,
            self.spread + candidate.exposures**2 / stable.exposures,
            self.stable_exposures + stable.exposures,
            self.stable_events + stable.events,
        )

    @property
    def own_variance(self) -> float:
        """The variance of one draw of the candidate."""
        return _variance(self.events, self.exposures)

    @property
    def variance(self) -> float:
        """The variance of `expected`."""
        return _variance(self.stable_events, self.stable_exposures) * self.spread


def _variance(events: float, draws: float) -> float:
    # Agresti and Coull 1998: a share of 0 in a few draws still has a variance.
    share = (events + 1) / (draws + 2)
    return share * (1 - share)


def unit_width(draws: float, *, alpha: float, tuned_for: float) -> float:
    """Half the width of the asymptotic confidence sequence for a variance of 1 (equation 9)."""
    # Equation 161 of arXiv 2103.06476v7: about the tightest at `tuned_for`.
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / max(tuned_for, 1.0)
    scaled = draws * rho2
    return math.sqrt(2 * (scaled + 1) / (draws * scaled) * math.log(math.sqrt(scaled + 1) / alpha))


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Return the Jensen-Shannon distance of two vectors of counts, 0 to 1; 0 if one of them is empty."""
    if first.sum() <= 0 or second.sum() <= 0:
        return 0.0
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    return math.sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2))


def _divergence(p: Floats, q: Floats) -> float:
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())


# The cost of the mixture compared with a known odds ratio, measured: see `docs/rollouts.md`.
_MIXTURE_COST = 1.5


def requests_to_see(stable_share: float, candidate_share: float, *, weight: float, alpha: float) -> float:
    """About how many requests of the candidate it takes until its failures are significant (half of all runs).

    Infinite where there is nothing to see: the candidate fails no more often than 1.2 times the stable version.
    """
    if not 0 < weight < 1 or candidate_share <= stable_share * _SMALLEST_ODDS:
        return math.inf
    failing = weight * candidate_share + (1 - weight) * stable_share
    ours = weight * candidate_share / failing
    gain = ours * math.log(ours / weight)
    if ours < 1:
        gain += (1 - ours) * math.log((1 - ours) / (1 - weight))
    # At least the events that the evidence needs in any case.
    return max(weight * (math.log(1 / alpha) + _MIXTURE_COST) / (failing * gain), 1 / candidate_share)


def visible_share(stable_share: float, requests: float, *, weight: float, alpha: float) -> float:
    """The smallest share of failures of the candidate that about so many of its requests show; 1 if none does."""
    low, high = stable_share, 1.0
    if requests_to_see(stable_share, high, weight=weight, alpha=alpha) > requests:
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if requests_to_see(stable_share, middle, weight=weight, alpha=alpha) > requests:
            low = middle
        else:
            high = middle
    return high

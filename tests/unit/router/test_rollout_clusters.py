"""Evidence from requests with keys: what a heavy user says, bounds, and other implementations of the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import halfnorm, norm

from inferlane.contracts.lane_tallies import BUCKETS
from router.rollouts.clusters import ClusterSums, combined, from_arrays, log_mixture, to_arrays
from router.rollouts.statistics import Draws, Floats, PairedSums, unit_width


def side(requests: dict[int, float], events: dict[int, float]) -> tuple[Floats, Floats]:
    found = np.zeros((2, BUCKETS))
    for row, counts in zip(found, (requests, events), strict=True):
        for bucket, count in counts.items():
            row[bucket] = count
    return found[0], found[1]


EVEN = dict.fromkeys(range(500), 10.0)


def test_one_user_who_always_fails_is_no_evidence_however_often_that_user_comes() -> None:
    sums = ClusterSums()
    for _ in range(200):
        sums = sums.plus(side({**EVEN, 1: 410.0}, {1: 400.0}), side(EVEN, {}))
    assert sums.excess == 200 * 400
    assert sums.log_evidence() < math.log(1 / 0.01)


def test_many_users_who_fail_are_evidence() -> None:
    failing = dict.fromkeys(range(0, 500, 5), 1.0)
    sums = ClusterSums().plus(side(EVEN, failing), side(EVEN, {}))
    assert sums.log_evidence() > math.log(1 / 0.01)
    better = ClusterSums().plus(side(EVEN, {}), side(EVEN, failing))
    assert better.log_evidence() < 0 < better.log_evidence(is_one_sided=False)


def test_two_users_without_a_failure_prove_nothing() -> None:
    sums = ClusterSums().plus(side({1: 5_000.0, 2: 5_000.0}, {}), side(EVEN, {}))
    found = combined(PairedSums(), sums, alpha=0.1, tuned_for=1_000)
    assert found is not None
    assert found.high > 0.5


def test_a_slot_in_which_one_version_had_no_request_says_nothing() -> None:
    assert ClusterSums().plus(side(EVEN, {1: 3.0}), side({}, {})).total == 0
    assert ClusterSums().plus(side({}, {}), side(EVEN, {})).log_evidence() == 0.0


@given(draws=st.integers(1, 10_000), spread_a_draw=st.floats(0.5, 50), deviations=st.floats(-4, 6), one=st.booleans())
def test_the_mixture_is_what_scipy_integrates(draws: int, spread_a_draw: float, deviations: float, one: bool) -> None:
    """The mean likelihood ratio over effects with a normal prior, or the half of it that says "more"."""
    spread = draws * spread_a_draw
    total = deviations * math.sqrt(spread)
    rho = math.sqrt(8 / 1_000)

    def ratio(effect: float) -> float:
        # Of a sum with mean `effect` a standardized draw: N(effect * sqrt(draws), 1) against N(0, 1).
        mean = effect * math.sqrt(draws)
        prior = halfnorm.pdf(effect, scale=rho) if one else norm.pdf(effect, scale=rho)
        return float(math.exp(mean * deviations - mean * mean / 2) * prior)

    peak = deviations / math.sqrt(draws)
    low = 0.0 if one else -12 * rho
    found, _ = quad(ratio, low, 12 * rho, points=[min(max(peak, low), 12 * rho)], limit=400)
    assert log_mixture(total, spread, draws, is_one_sided=one) == pytest.approx(math.log(found), abs=1e-4)


@given(st.integers(1, 5_000), st.floats(0, 1), st.integers(1, 5_000), st.floats(0, 1))
def test_without_keys_the_bounds_are_those_of_independent_draws(
    ours: int, failing: float, theirs: int, also_failing: float
) -> None:
    sums = PairedSums().plus(Draws(ours, ours * failing), Draws(theirs, theirs * also_failing))
    estimate = (sums.events - sums.expected) / ours
    half = math.sqrt(sums.own_variance + sums.variance / ours) * unit_width(ours, alpha=0.1, tuned_for=1_000)
    both = combined(sums, ClusterSums(), alpha=0.1, tuned_for=1_000)
    assert both is not None
    assert (both.estimate, both.low, both.high) == pytest.approx((estimate, estimate - half, estimate + half))


def test_the_bounds_cover_no_difference_at_any_time() -> None:
    """200 runs, each looked at 60 times: a few users make most of the traffic, and a few always fail."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(200):
        users = 800
        weights = 1 / np.arange(1, users + 1)
        failing = rng.random(users) < 0.05
        is_ours, buckets = rng.random(users) < 0.5, rng.integers(0, BUCKETS, users)
        sums, is_wrong = ClusterSums(), False
        for _ in range(60):
            counts = rng.poisson(100 * weights / weights.sum())
            sides = []
            for chosen in (is_ours, ~is_ours):
                requests = np.bincount(buckets, weights=counts * chosen, minlength=BUCKETS)
                sides.append((requests, np.bincount(buckets, weights=counts * chosen * failing, minlength=BUCKETS)))
            sums = sums.plus(sides[0], sides[1])
            found = combined(PairedSums(), sums, alpha=0.1, tuned_for=1_000)
            is_wrong |= found is not None and not found.low <= 0 <= found.high
        wrong += is_wrong
    assert wrong <= 0.1 * 200


def test_sums_are_read_as_they_were_written() -> None:
    sums = ClusterSums().plus(side(EVEN, {3: 2.0}), side(EVEN, {4: 1.0}))
    read = from_arrays(to_arrays(sums))
    assert to_arrays(read).tolist() == to_arrays(sums).tolist()
    with pytest.raises(ValueError, match="reshape"):
        from_arrays(np.zeros(5))

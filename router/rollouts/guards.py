"""Guards: rules that end a rollout at once, without statistics. Pure."""

import math
from dataclasses import dataclass

from inferlane.contracts.rollout import Check, RolloutState
from router.rollouts.clusters import ClusterSums
from router.rollouts.evidence import CopyCountOf, CountOf, Learnt
from router.rollouts.states import weight_of
from router.rollouts.statistics import PairedSums, log_evidence

# The model errors in a row that end a small step at once, and the largest weight of a small step.
_ERRORS_IN_A_ROW = 3
# The same for a larger step: without a success in between, statistics are not needed.
_ERRORS_IN_A_ROW_AT_MOST = 10
_SMALL_WEIGHT = 0.05
# The failure share of the stable version from which errors in a row prove nothing.
_STABLE_SHARE = 0.2
# The standard deviations by which failures may exceed the expectation from the stable version.
_EXPOSURE_DEVIATIONS = 3.0
_LATE_SHARE = 0.5
# How long records of any lane may wait for a pool at zero to start its first worker.
_WAKES_WITHIN_S = 30.0
# The probability of a false alarm when no stable version is left to compare with.
_ALONE_ALPHA = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePool:
    """The candidate's workers and what waits for them.

    `waits_s` is the age of the oldest record of any lane, `oldest_s` that of the interactive one;
    `oldest_s` is not checked while there is no default deadline (`deadline_s` is infinite).
    `workers` is None while unknown; then no decision uses it. `is_probed` says that it answered the
    probe of the rollout, `probe_error` what it failed it with.
    """

    workers: int | None = None
    is_halted: bool = False
    failed_in_a_row: int = 0
    lag_records: int | None = None
    oldest_s: float = 0.0
    waits_s: float = 0.0
    deadline_s: float = math.inf
    is_probed: bool = False
    probe_error: str = ""


def guard(state: RolloutState, pool: CandidatePool, learnt: Learnt) -> str | None:
    """Return what needs no statistics: the reason to roll back at once, None if there is none."""
    weight = weight_of(state)
    if pool.is_halted:
        return "a worker of the candidate halted: its model fails on most requests, or a run did not end"
    # Errors of requests outside the rollout do not end it.
    in_a_row = min(pool.failed_in_a_row, int(learnt.counts[CountOf.FAILED] + learnt.shadows[CopyCountOf.FAILED]))
    is_worse = learnt.counts[CountOf.STABLE_FAILED] <= _STABLE_SHARE * learnt.counts[CountOf.STABLE_REQUESTS]
    if is_worse and in_a_row >= (_ERRORS_IN_A_ROW if weight <= _SMALL_WEIGHT else _ERRORS_IN_A_ROW_AT_MOST):
        return f"{pool.failed_in_a_row} model errors in a row at a weight of {weight:.0%}"
    # An autoscaler takes the last worker of a pool without work away, and starts one once something waits.
    if pool.workers == 0 and (pool.lag_records is None or pool.waits_s > _WAKES_WITHIN_S):
        return "no worker of the candidate is there"
    if pool.oldest_s > _LATE_SHARE * pool.deadline_s:
        return f"the candidate's oldest record waits for {pool.oldest_s:.0f} s, over half of the deadline"
    return _over_budget(state, learnt, weight)


def _over_budget(state: RolloutState, learnt: Learnt, weight: float) -> str | None:
    if log_evidence(learnt.alone) >= math.log(1 / _ALONE_ALPHA):
        return "with all traffic, over twice as many requests fail as with the stable version before"
    sums, keyed = learnt.sums.get(Check.ERRORS, PairedSums()), learnt.clusters.get(Check.ERRORS, ClusterSums())
    if weight < 1:
        noise = _EXPOSURE_DEVIATIONS * math.sqrt(sums.expected + sums.variance + keyed.spread())
        excess = sums.events - sums.expected + keyed.excess
        limit = state.spec.exposure.failed_requests
        if excess > limit + noise:
            return f"{excess:.0f} more requests failed than the stable version would have; the budget is {limit}"
    return None

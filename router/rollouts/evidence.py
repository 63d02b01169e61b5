"""The evidence of a rollout from its slots, and how a slot is added. Pure.

The two versions are compared lane by lane and slot by slot: in the same minutes, whatever the traffic does.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from inferlane.contracts.lane_tallies import LaneTally, decode_buckets, row_time_s, rows_of_bin
from inferlane.contracts.rollout import Check, CheckOptions
from router.rollouts.answer_evidence import Answers, add_answers
from router.rollouts.clusters import ClusterSums
from router.rollouts.statistics import OTHER_ODDS, Draws, Floats, PairedSums, log_ratios, no_evidence

# The least runs of the stable version in a stratum before its 95th percentile is used as a budget.
_RUNS_FOR_BUDGET = 50
_P95 = 0.95
_BUDGET_FACTOR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSlot:
    """One slot of one lane: the tallies of both versions, and of the candidate's shadow copies.

    `weight` is the candidate's by the split, None where the split changed in the slot or little before.
    """

    index: int
    candidate: LaneTally
    stable: LaneTally
    shadow: LaneTally | None = None
    weight: float | None = None
    is_of_step: bool = True


class CountOf(IntEnum):
    """The places of `Learnt.counts`."""

    REQUESTS = 0
    STABLE_REQUESTS = 1
    FAILED = 2
    STABLE_FAILED = 3
    REQUESTS_IN_STEP = 4


class CopyCountOf(IntEnum):
    """The places of `Learnt.shadows`: of shadow copies."""

    REQUESTS = 0
    FAILED = 1
    COMPARED = 2
    AGREED = 3


def _zeros(size: int) -> Floats:
    return np.zeros(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """Sums over slots. `errors` to `disagreement` are `log_ratios`."""

    errors: Floats = field(default_factory=no_evidence)
    expired: Floats = field(default_factory=no_evidence)
    latency: Floats = field(default_factory=no_evidence)
    share: Floats = field(default_factory=no_evidence)
    disagreement: Floats = field(default_factory=no_evidence)
    # Failures while the stable version has no traffic, compared with twice its earlier share.
    alone: Floats = field(default_factory=no_evidence)
    # Requests without a key, and those with one.
    sums: Mapping[Check, PairedSums] = field(default_factory=dict)
    clusters: Mapping[Check, ClusterSums] = field(default_factory=dict)
    counts: Floats = field(default_factory=lambda: _zeros(len(CountOf)))
    shadows: Floats = field(default_factory=lambda: _zeros(len(CopyCountOf)))
    answers: Answers = field(default_factory=Answers)
    runs: Mapping[int, int] = field(default_factory=dict)


def start_step(learnt: Learnt) -> Learnt:
    """Return the same evidence, with no request of the new step yet."""
    counts = learnt.counts.copy()
    counts[CountOf.REQUESTS_IN_STEP] = 0
    return replace(learnt, counts=counts)


def fold(learnt: Learnt, slots: Sequence[LaneSlot], checks: Mapping[Check, CheckOptions]) -> Learnt:
    """Add slots, each of which must be added once."""
    for slot in slots:
        learnt = _fold(learnt, slot, checks)
    return learnt


def _fold(learnt: Learnt, slot: LaneSlot, checks: Mapping[Check, CheckOptions]) -> Learnt:
    learnt = _fold_alone(_fold_counts(learnt, slot), slot)
    if slot.shadow is not None:
        learnt = _fold_shadow(learnt, slot.shadow, slot, checks)
    return _fold_answers(_fold_runs(learnt, slot, checks.get(Check.LATENCY)), slot)


def _fold_counts(learnt: Learnt, slot: LaneSlot) -> Learnt:
    ours, theirs = slot.candidate, slot.stable
    keyed, keyed_stable = decode_buckets(ours.buckets), decode_buckets(theirs.buckets)
    evidence, sums, clusters = {}, dict(learnt.sums), dict(learnt.clusters)
    for check, attribute in ((Check.ERRORS, "failed"), (Check.EXPIRED, "expired")):
        events, stable_events = getattr(keyed, attribute), getattr(keyed_stable, attribute)
        free = _without_key(ours, keyed.requests, attribute, events)
        free_stable = _without_key(theirs, keyed_stable.requests, attribute, stable_events)
        evidence[check.value] = getattr(learnt, check.value) + _ratios(free, free_stable)
        sums[check] = sums.get(check, PairedSums()).plus(free, free_stable)
        clusters[check] = clusters.get(check, ClusterSums()).plus(
            (keyed.requests, events), (keyed_stable.requests, stable_events)
        )
    share = learnt.share
    if slot.weight is not None:
        # A key always goes to one version, so only requests without a key are independent draws.
        share = share + log_ratios(
            float(ours.requests - keyed.requests.sum()),
            float(theirs.requests - keyed_stable.requests.sum()),
            slot.weight,
            OTHER_ODDS,
        )
    in_step = ours.requests if slot.is_of_step else 0
    counts = learnt.counts + np.array([ours.requests, theirs.requests, ours.failed, theirs.failed, in_step])
    return replace(
        learnt,
        errors=evidence[Check.ERRORS.value],
        expired=evidence[Check.EXPIRED.value],
        share=share,
        sums=sums,
        clusters=clusters,
        counts=counts,
    )


def _without_key(tally: LaneTally, keyed: NDArray[np.int64], attribute: str, events: NDArray[np.int64]) -> Draws:
    return Draws(float(tally.requests - keyed.sum()), float(getattr(tally, attribute) - events.sum()))


def _ratios(ours: Draws, theirs: Draws) -> Floats:
    draws = ours.exposures + theirs.exposures
    return log_ratios(ours.events, theirs.events, ours.exposures / draws) if draws else no_evidence()


def _fold_alone(learnt: Learnt, slot: LaneSlot) -> Learnt:
    """Where all traffic goes to the candidate, its failures are compared with those of the stable version before."""
    ours = slot.candidate
    if slot.stable.requests or not ours.requests or not learnt.counts[CountOf.STABLE_REQUESTS]:
        return learnt
    requests, failed = learnt.counts[CountOf.STABLE_REQUESTS], learnt.counts[CountOf.STABLE_FAILED]
    limit = min(0.5, 2 * (failed + 3 * math.sqrt(failed + 1) + 3) / (requests + 3))
    scale = _draws_of(ours) / ours.requests
    ratios = scale * log_ratios(ours.failed, ours.requests - ours.failed, limit)
    return replace(learnt, alone=learnt.alone + ratios)


def _fold_shadow(learnt: Learnt, shadow: LaneTally, slot: LaneSlot, checks: Mapping[Check, CheckOptions]) -> Learnt:
    options = checks.get(Check.AGREEMENT, CheckOptions())
    apart = shadow.compared - shadow.agreed
    # The rows of one user are correlated: count as many draws as there were keys.
    scale = _draws_of(shadow) / shadow.requests if shadow.requests else 0.0
    ratios = scale * log_ratios(apart, shadow.agreed, 1 - options.agreement)
    copies = Draws(scale * shadow.requests, scale * shadow.failed)
    theirs = slot.stable
    stable_scale = _draws_of(theirs) / theirs.requests if theirs.requests else 0.0
    errors = learnt.errors + _ratios(copies, Draws(stable_scale * theirs.requests, stable_scale * theirs.failed))
    counts = learnt.counts.copy()
    counts[CountOf.REQUESTS_IN_STEP] += shadow.requests if slot.is_of_step else 0
    shadows = learnt.shadows + np.array([shadow.requests, shadow.failed, shadow.compared, shadow.agreed])
    return replace(learnt, errors=errors, counts=counts, shadows=shadows, disagreement=learnt.disagreement + ratios)


def _fold_runs(learnt: Learnt, slot: LaneSlot, options: CheckOptions | None) -> Learnt:
    """Add the runs of a slot: a run is one draw, and is compared with runs of as many rows."""
    latency, sums = learnt.latency, learnt.sums
    if options is not None and slot.candidate.runs and slot.stable.runs:
        ours, theirs = _by_rows(slot.candidate.runs), _by_rows(slot.stable.runs)
        known = _by_rows(learnt.runs)
        paired = sums.get(Check.LATENCY, PairedSums())
        for rows in ours.keys() & theirs.keys():
            budget_s = options.budget_ms / 1000 or _budget_s(known.get(rows, {}))
            if budget_s is not None:
                mine, other = _slow(ours[rows], budget_s), _slow(theirs[rows], budget_s)
                latency = latency + _ratios(mine, other)
                paired = paired.plus(mine, other)
        sums = {**sums, Check.LATENCY: paired}
    runs = Counter(learnt.runs)
    runs.update(slot.stable.runs)
    return replace(learnt, latency=latency, sums=sums, runs=runs)


def _by_rows(runs: Mapping[int, int]) -> dict[int, dict[int, int]]:
    groups: dict[int, dict[int, int]] = {}
    for run, count in runs.items():
        groups.setdefault(rows_of_bin(run), {})[run] = count
    return groups


def _budget_s(runs: Mapping[int, int]) -> float | None:
    total = sum(runs.values())
    if total < _RUNS_FOR_BUDGET:
        return None
    below = 0
    for run in sorted(runs):
        below += runs[run]
        if below >= _P95 * total:
            return _BUDGET_FACTOR * row_time_s(run)
    return None


def _slow(runs: Mapping[int, int], budget_s: float) -> Draws:
    return Draws(
        float(sum(runs.values())),
        float(sum(count for run, count in runs.items() if row_time_s(run) > budget_s)),
    )


def _draws_of(tally: LaneTally) -> float:
    keyed = decode_buckets(tally.buckets).requests
    return float(tally.requests - keyed.sum() + np.count_nonzero(keyed))


def _fold_answers(learnt: Learnt, slot: LaneSlot) -> Learnt:
    ours = slot.candidate
    if slot.shadow is not None and not (ours.answers or ours.keyed_answers):
        ours = slot.shadow
    return replace(learnt, answers=add_answers(learnt.answers, ours, slot.stable))

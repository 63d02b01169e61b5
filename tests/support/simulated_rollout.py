"""A rollout on simulated traffic: weights that move, base rates that shift for both versions, users who come back."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from inferlane.contracts.lane_tallies import (
    BUCKETS,
    BucketCounts,
    LaneTally,
    answer_cluster,
    encode_buckets,
    value_labels,
)
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import Check, CheckOptions, Pace, Phase, RolloutSpec, RolloutState, Step
from router.rollouts.controller import Window, step
from router.rollouts.evidence import LaneSlot
from router.rollouts.guards import CandidatePool
from router.rollouts.states import begin, split_of, weight_of

SLOT_S = 10
_MAX_SLOTS = 500


def make_spec(weights: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 1.0), min_requests: int = 500) -> RolloutSpec:
    return RolloutSpec(
        model="iris",
        candidate="v2",
        stable="v1",
        steps=tuple(Step(weight=weight) for weight in weights),
        lanes=(Lane.REQUESTS,),
        each=Pace(min_requests=min_requests, min_time_s=0.0, max_wait_s=_MAX_SLOTS * SLOT_S / 2),
        bake_s=SLOT_S * 2,
        checks={name: CheckOptions() for name in (Check.ERRORS, Check.EXPIRED, Check.ANSWERS, Check.SHARE)},
    )


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """`stable` and `candidate` are shares of failures; both are multiplied by `shift` of the slot.

    With `zipf`, every request has a key, and the traffic of the users falls with their rank to this power; each user
    has a class (or a value, with `has_values`) of its own in nine of ten answers.
    """

    stable: float
    candidate: float
    requests: int = 400
    shift: Callable[[int], float] = lambda _: 1.0
    users: int = 0
    zipf: float | None = None
    has_values: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    phase: Phase
    reason: str
    candidate_requests: int


class _Users:
    """Users who always go to one version and fail alike: most of them never, a few of them often."""

    def __init__(self, rng: np.random.Generator, traffic: Traffic) -> None:
        count = traffic.users
        self._rng = rng
        self._traffic = traffic
        self._position = rng.random(count)
        self._bucket = rng.integers(0, BUCKETS, count)
        # A user fails with 20 times the share, or never: 5 % of the users have all failures.
        self._is_failing = rng.random(count) < 0.05

    def slot(self, number: int, weight: float) -> tuple[LaneTally, LaneTally]:
        # 10 users send 40 requests each: what looks like 400 draws is 10.
        users = self._rng.integers(0, self._traffic.users, self._traffic.requests // 40)
        is_ours = self._position[users] < weight
        sides = []
        for chosen, share in ((users[is_ours], self._traffic.candidate), (users[~is_ours], self._traffic.stable)):
            often = min(1.0, 20 * share * self._traffic.shift(number))
            failing = np.where(self._is_failing[chosen], often, 0.0)
            failed = self._rng.binomial(40, failing)
            requests, failures = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.int64)
            np.add.at(requests, self._bucket[chosen], 40)
            np.add.at(failures, self._bucket[chosen], failed)
            buckets = encode_buckets(BucketCounts(requests, failures, np.zeros(BUCKETS, np.int64)))
            sides.append(_tally(int(requests.sum()), int(failures.sum()), buckets))
        return sides[0], sides[1]


class _RankedUsers:
    """Users of whom a few make most of the traffic; all requests have a key."""

    def __init__(self, rng: np.random.Generator, traffic: Traffic) -> None:
        count = traffic.users
        weights = 1 / np.arange(1, count + 1) ** (traffic.zipf or 0.0)
        self._rng = rng
        self._traffic = traffic
        self._weights = weights / weights.sum()
        self._position = rng.random(count)
        self._bucket = rng.integers(0, BUCKETS, count)
        self._answer = rng.lognormal(3, 1, count) if traffic.has_values else rng.choice(3, count, p=[0.5, 0.3, 0.2])

    def slot(self, number: int, weight: float) -> tuple[LaneTally, LaneTally]:
        rng, traffic = self._rng, self._traffic
        users = rng.choice(traffic.users, traffic.requests, p=self._weights)
        is_ours = self._position[users] < weight
        sides = []
        for chosen, share in ((users[is_ours], traffic.candidate), (users[~is_ours], traffic.stable)):
            has_failed = rng.random(len(chosen)) < share * traffic.shift(number)
            own = rng.random(len(chosen)) < 0.9
            answers = np.where(own, self._answer[chosen], rng.choice(self._answer, len(chosen)))
            labels = value_labels(answers) if traffic.has_values else [f"class {int(one)}" for one in answers]
            keyed: dict[str, dict[int, int]] = {}
            for label, bucket in zip(labels, self._bucket[chosen].tolist(), strict=True):
                counts, cluster = keyed.setdefault(label, {}), answer_cluster(bucket)
                counts[cluster] = counts.get(cluster, 0) + 1
            requests = np.bincount(self._bucket[chosen], minlength=BUCKETS)
            failed = np.bincount(self._bucket[chosen[has_failed]], minlength=BUCKETS)
            buckets = encode_buckets(BucketCounts(requests, failed, np.zeros(BUCKETS, np.int64)))
            sides.append(replace(_tally(len(chosen), int(has_failed.sum()), buckets), keyed_answers=keyed))
        return sides[0], sides[1]


def _tally(requests: int, failed: int, buckets: bytes = b"") -> LaneTally:
    return LaneTally(rollout="r", lane=Lane.REQUESTS, requests=requests, failed=failed, buckets=buckets)


def simulate(traffic: Traffic, *, seed: int, spec: RolloutSpec | None = None) -> Outcome:
    """Run a rollout to its end, or to its first pause."""
    rng = np.random.default_rng(seed)
    users: _Users | _RankedUsers | None = None
    if traffic.users:
        users = _Users(rng, traffic) if traffic.zipf is None else _RankedUsers(rng, traffic)
    state = begin(RolloutState(id="r", spec=spec or make_spec(), generation=1), "", 0.0)
    requests = 0
    for number in range(_MAX_SLOTS):
        weight = weight_of(state)
        if users is not None:
            ours, theirs = users.slot(number, weight)
        else:
            count = int(rng.binomial(traffic.requests, weight))
            shift = traffic.shift(number)
            ours = _tally(count, int(rng.binomial(count, min(1.0, traffic.candidate * shift))))
            rest = traffic.requests - count
            theirs = _tally(rest, int(rng.binomial(rest, min(1.0, traffic.stable * shift))))
        requests += ours.requests
        slot = LaneSlot(index=number, candidate=ours, stable=theirs, weight=weight if 0 < weight < 1 else None)
        now_s = (number + 1.0) * SLOT_S
        pool = CandidatePool(workers=1, is_probed=True)
        window = Window(closed=[slot], through_slot=number, pool=pool, split=split_of(state, now_s))
        decision = step(state, window, now_s)
        state = decision.state
        if state.phase.is_final or state.phase in {Phase.PAUSED, Phase.ROLLING_BACK}:
            break
    return Outcome(phase=state.phase, reason=state.reason, candidate_requests=requests)

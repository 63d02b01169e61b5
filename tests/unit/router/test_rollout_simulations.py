"""300 seeded rollouts on simulated traffic: weights move, base rates shift for both versions, users come back.

The seeds are fixed, so the figures are the same in every run.
"""

import pytest

from inferlane.contracts.rollout import Phase
from tests.support.simulated_rollout import Outcome, Traffic, make_spec, simulate


def incident(slot: int) -> float:
    """An upstream incident: for a while both versions fail three times as often."""
    return 3.0 if 30 <= slot % 100 < 60 else 1.0


def outcomes(traffic: Traffic, count: int) -> list[Outcome]:
    return [simulate(traffic, seed=seed) for seed in range(count)]


@pytest.mark.parametrize(
    ("traffic", "count"),
    [
        (Traffic(stable=0.01, candidate=0.01, shift=incident), 60),
        (Traffic(stable=0.05, candidate=0.05), 50),
        (Traffic(stable=0.01, candidate=0.01, users=3_000, requests=1_600), 30),
    ],
)
def test_a_candidate_that_is_as_good_is_rolled_back_in_at_most_one_of_a_hundred(traffic: Traffic, count: int) -> None:
    wrong = [one for one in outcomes(traffic, count) if one.phase is Phase.ROLLING_BACK]
    assert len(wrong) <= 0.01 * count, wrong


def test_a_candidate_that_fails_five_times_as_often_is_rolled_back_within_400_of_its_requests() -> None:
    count = 100
    found = outcomes(Traffic(stable=0.01, candidate=0.05), count)
    in_time = [one for one in found if one.phase is Phase.ROLLING_BACK and one.candidate_requests <= 400]
    assert len(in_time) >= 0.9 * count


@pytest.mark.parametrize("users", [0, 3_000])
def test_a_candidate_that_is_worse_than_the_margin_is_not_promoted(users: int) -> None:
    count = 30
    found = outcomes(Traffic(stable=0.01, candidate=0.0205, users=users, requests=1_600), count)
    assert sum(one.phase is Phase.PROMOTED for one in found) <= 0.05 * count


def test_a_candidate_that_is_as_good_is_promoted_without_a_person() -> None:
    found = outcomes(Traffic(stable=0.01, candidate=0.01), 20)
    assert [one for one in found if one.phase is not Phase.PROMOTED] == []


def test_users_who_always_fail_roll_no_candidate_back() -> None:
    """A user's forty requests are one draw: without key buckets most of these rollouts were rolled back."""
    spec = make_spec((0.05, 0.25, 0.5, 1.0))
    found = [
        simulate(Traffic(stable=0.05, candidate=0.05, users=300, requests=1_600), seed=seed, spec=spec)
        for seed in range(10)
    ]
    assert [one for one in found if one.phase is Phase.ROLLING_BACK] == []


@pytest.mark.parametrize("zipf", [0.0, 1.1])
@pytest.mark.parametrize("has_values", [False, True])
def test_traffic_with_keys_alone_promotes_an_equal_candidate_without_a_person(zipf: float, *, has_values: bool) -> None:
    """One user in seven requests: before answers were compared by clusters of keys, 4 of 5 of these rollouts paused."""
    spec = make_spec((0.05, 0.25, 0.5, 1.0))
    traffic = Traffic(stable=0.01, candidate=0.01, users=3_000, zipf=zipf, has_values=has_values)
    found = [simulate(traffic, seed=seed, spec=spec) for seed in range(10)]
    assert [one for one in found if one.phase is not Phase.PROMOTED] == []


def test_a_candidate_that_fails_five_times_as_often_for_users_with_keys_is_rolled_back_soon() -> None:
    spec = make_spec((0.05, 0.25, 0.5, 1.0))
    traffic = Traffic(stable=0.01, candidate=0.05, users=3_000, zipf=1.1)
    found = [simulate(traffic, seed=seed, spec=spec) for seed in range(20)]
    in_time = [one for one in found if one.phase is Phase.ROLLING_BACK and one.candidate_requests <= 2_500]
    assert len(in_time) >= 18, found

"""The check `answers`: classes and values of a regression, with keys and without, against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from inferlane.contracts.lane_tallies import LaneTally, answer_cluster, value_labels, value_of
from inferlane.contracts.naming import Lane
from router.rollouts.answer_evidence import Answers, add_answers
from router.rollouts.statistics import jensen_shannon

_FAILED = math.log(1 / 0.01)


def tally(values: np.ndarray, keys: np.ndarray | None = None) -> LaneTally:
    answers: dict[str, int] = {}
    keyed: dict[str, dict[int, int]] = {}
    for number, label in enumerate(value_labels(values)):
        if keys is None:
            answers[label] = answers.get(label, 0) + 1
        else:
            counts, cluster = keyed.setdefault(label, {}), answer_cluster(int(keys[number]))
            counts[cluster] = counts.get(cluster, 0) + 1
    return LaneTally(rollout="r", lane=Lane.REQUESTS, requests=len(values), answers=answers, keyed_answers=keyed)


def is_told_apart(seed: int, *, shift: float, slots: int = 40, has_keys: bool = False) -> bool:
    """Whether answers, of slots in which the base moves for both versions, were ever significant and apart."""
    rng = np.random.default_rng(seed)
    known, is_failed = Answers(), False
    effects = rng.normal(0, 1, 1_000)
    for slot in range(slots):
        base = 20 + 3 * math.sin(slot / 5)
        sides = []
        for count, more in ((20, shift), (60, 0.0)):
            keys = rng.zipf(1.3, count) % 1_000
            keys = keys // 2 * 2 + (more != 0.0) if has_keys else None
            own = effects[keys] if keys is not None else 0.0
            sides.append(tally(base + more + own + rng.normal(0, 1, count), keys))
        known = add_answers(known, sides[0], sides[1])
        if known.labels:
            is_apart = jensen_shannon(known.candidate, known.stable) >= 0.1
            is_failed |= is_apart and known.log_evidence >= _FAILED
    return is_failed


def test_values_that_are_shifted_are_found_and_those_of_equal_versions_are_not() -> None:
    assert sum(is_told_apart(seed, shift=0.0) for seed in range(100)) <= 1
    assert sum(is_told_apart(seed, shift=2.0) for seed in range(20)) >= 19


def test_a_shift_is_found_where_scipy_finds_one() -> None:
    """On values with no base that moves, a Kolmogorov-Smirnov test of all of them is the better judge."""
    for seed, shift in ((1, 0.0), (2, 0.0), (3, 1.0), (4, 1.5)):
        rng = np.random.default_rng(seed)
        known = Answers()
        ours, theirs = rng.normal(50 + 3 * shift, 3, 1_000), rng.normal(50, 3, 3_000)
        for slot in range(20):
            mine, other = ours[50 * slot : 50 * slot + 50], theirs[150 * slot : 150 * slot + 150]
            known = add_answers(known, tally(mine), tally(other))
        assert (known.log_evidence >= _FAILED) == (ks_2samp(ours, theirs).pvalue < 0.001) == (shift > 0)


def test_values_of_few_heavy_users_are_no_difference() -> None:
    found = [is_told_apart(seed, shift=1e-9, has_keys=True) for seed in range(100)]
    assert sum(found) <= 1


def test_a_version_that_answers_one_value_is_told_from_one_that_answers_another() -> None:
    constant, other = tally(np.full(300, 7.0)), tally(np.full(300, 14.0))
    known = add_answers(Answers(), constant, constant)
    assert (known.labels, len(known.edges)) == ((), 2)
    assert add_answers(known, constant, constant).log_evidence < 0
    known = add_answers(known, other, constant)
    assert known.log_evidence > _FAILED
    assert jensen_shannon(known.candidate, known.stable) == pytest.approx(1.0)


def test_classes_past_the_limit_are_one() -> None:
    many = LaneTally(rollout="r", lane=Lane.REQUESTS, answers={f"c{number}": 5 for number in range(60)})
    known = add_answers(Answers(), many, many)
    assert (len(known.labels), known.labels[-1]) == (32, "other")
    assert known.candidate.sum() == 300


@given(st.floats(allow_nan=False, allow_infinity=True, width=32))
def test_a_value_is_known_to_within_a_few_percent(value: float) -> None:
    (label,) = value_labels(np.array([value], np.float64))
    found = value_of(label)
    assert found is not None
    expected = math.copysign(min(abs(value), 1e15), value)
    assert found == pytest.approx(expected, rel=0.04, abs=1e-11)


def test_a_class_is_no_value() -> None:
    assert value_of("setosa") is None
    assert value_of("≈setosa") is None

"""What sums of feedback say: a mean, and an interval that is wider where there is less to go by."""

import numpy as np

from inferlane.contracts.feedback import Sums
from inferlane.runtime.redis.feedback_store import QUALITY, REWARD
from router.feedback_tally import report_of


def sums_of(values: np.ndarray) -> Sums:
    return Sums(len(values), float(values.sum()), float((values**2).sum()))


def width(segments: dict[int, Sums]) -> float:
    measured = report_of({REWARD: segments}, now_s=0.0).reward
    assert measured is not None
    return measured.high - measured.low


def test_without_feedback_nothing_is_said() -> None:
    report = report_of({}, now_s=1.0)
    assert (report.quality, report.reward) == (None, None)


def test_the_interval_holds_the_mean_at_every_look() -> None:
    """Of 200 series with a quality of 0.8, looked at 20 times each, fewer than 5 % leave the interval ever."""
    random = np.random.default_rng(7)
    missed = 0
    for _ in range(200):
        draws = (random.random(1_000) < 0.8).astype(float)
        found = [report_of({QUALITY: {-1: sums_of(draws[:n])}}, now_s=0.0).quality for n in range(50, 1_001, 50)]
        missed += any(one is not None and not one.low <= 0.8 <= one.high for one in found)
    assert missed / 200 < 0.05


def test_forty_rewards_of_one_user_say_less_than_those_of_forty_users() -> None:
    random = np.random.default_rng(3)
    rewards = random.normal(1.0, 0.5, 400)
    alone = {-1: sums_of(rewards)}
    same = {segment: sums_of(np.full(40, rewards[segment])) for segment in range(10)}
    assert width(same) > 2 * width(alone)

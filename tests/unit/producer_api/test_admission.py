"""Who is let in: whoever can be answered in time, by what the broker last said."""

from itertools import takewhile

import pytest

from inferlane.contracts.traffic_split import Split
from inferlane.errors import OverloadedError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.offsets import Position
from inferlane.runtime.metrics.api_metrics import BACKLOG, SERVICE_RATE
from inferlane.runtime.split_table import SplitTable
from producer_api.http.error_responses import problem_of
from producer_api.predict.admission import Admission
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import make_catalog
from tests.support.fakes.simulated_queue import SimulatedQueue, Work


async def make_admission(*, weights: dict[str, float] | None = None, **settings: object) -> Admission:
    splits = SplitTable()
    if weights:
        splits._splits["iris"] = Split(model="iris", weights=weights)
    config = load_settings(**settings)
    clock = FakeClock()
    return Admission(
        config.api,
        config.kafka,
        config.stack.names,
        catalog=make_catalog(),
        splits=splits,
        positions=SimulatedQueue(config, clock, {}),
        clock=clock,
    )


def busy(admission: Admission, version: str, *, lag_records: int, rate: int) -> None:
    """Let the version have this backlog and have been seen to finish `rate` records in the last second."""
    now_s = admission._clock.monotonic_s()
    observed = admission._versions["iris", version].rate
    observed.note(Position(committed=0, end=lag_records + rate), at_s=now_s - 1)
    observed.note(Position(committed=rate, end=lag_records + rate), at_s=now_s)
    # As after a look at the broker.
    for target in admission._targets.values():
        target.estimate = None


def count_admitted(admission: Admission, *, within_s: float, at_most: int) -> int:
    """How many are let in, one after the other, until one is refused."""

    def is_admitted(_: int) -> bool:
        try:
            admission.admit("iris", "v1", within_s=within_s)
        except OverloadedError:
            return False
        return True

    return sum(1 for _ in takewhile(is_admitted, range(at_most)))


async def test_a_deadline_that_the_backlog_cannot_meet_is_refused_with_the_time_to_come_back() -> None:
    """Guards `wait_s > within_s`: taken out, the request is accepted to expire."""
    admission = await make_admission()
    busy(admission, "v1", lag_records=1_000, rate=100)
    admission.admit("iris", "v1", within_s=60)
    with pytest.raises(OverloadedError, match=r"1001 requests of iris wait") as refused:
        admission.admit("iris", "v1", within_s=4)
    # 10 s of backlog, 4 s of patience: in 6 s the same request will do.
    response = problem_of(refused.value)
    assert (response.status, dict(response.headers)[b"retry-after"]) == (503, b"7")


async def test_a_pool_of_which_nothing_is_known_is_trusted() -> None:
    admission = await make_admission()
    for _ in range(1_000):
        admission.admit("iris", None, within_s=0.1)


async def test_what_was_accepted_since_the_last_look_counts() -> None:
    """Guards `newer`: taken out, a burst between two looks at the broker is let in whole."""
    admission = await make_admission()
    busy(admission, "v1", lag_records=0, rate=100)
    busy(admission, "v1", lag_records=10, rate=100)
    accepted = count_admitted(admission, within_s=2, at_most=10_000)
    # The router and the version each have them before them, so it is fewer than the 200 of one hop.
    assert 100 <= accepted <= 250


async def test_one_slow_canary_refuses_nobody_and_a_slow_majority_does() -> None:
    """Guards the weighted median: with the largest wait instead, a stuck 5 % stops the other 95 %."""
    admission = await make_admission(weights={"v1": 95, "v2": 5})
    busy(admission, "v2", lag_records=10_000, rate=20)
    admission.admit("iris", None, within_s=5)
    with pytest.raises(OverloadedError):
        admission.admit("iris", "v2", within_s=5)
    busy(admission, "v1", lag_records=10_000, rate=20)
    with pytest.raises(OverloadedError):
        admission.admit("iris", None, within_s=5)


async def test_a_backlog_over_its_limit_refuses_whatever_the_deadline() -> None:
    admission = await make_admission(max_backlog_records=50)
    busy(admission, "v1", lag_records=50, rate=1_000_000)
    with pytest.raises(OverloadedError, match="INFERLANE_MAX_BACKLOG_RECORDS"):
        admission.admit("iris", "v1", within_s=1e6)


async def test_a_refusal_makes_it_look_again() -> None:
    """Guards `_came.set()` before the refusal: else a backlog that was seen once, and is gone, refuses for ever."""
    admission = await make_admission()
    busy(admission, "v1", lag_records=1_000, rate=100)
    with pytest.raises(OverloadedError):
        admission.admit("iris", "v1", within_s=4)
    assert admission._came.is_set()


async def test_requests_of_one_moment_count_each_other() -> None:
    """Guards `newer * estimate.record_s`: without it a burst for a slow model is let in to expire."""
    admission = await make_admission()
    busy(admission, "v1", lag_records=10, rate=10)
    # Ten wait for a second; another ten fill the two.
    assert 9 <= count_admitted(admission, within_s=2, at_most=64) <= 11


async def test_a_version_that_was_retired_or_lost_its_topic_leaves_no_gauge_behind() -> None:
    admission = await make_admission()
    queue = admission._positions
    assert isinstance(queue, SimulatedQueue)
    queue.work = {("iris", "v1"): Work(came=500), ("iris", "v2"): Work(came=500)}
    await admission._look()
    assert shown() == {"v1", "v2"}
    admission._watch(make_catalog("v1"))
    assert shown() == {"v1"}
    queue.work = {}
    await admission._look()
    assert shown() == set()


def shown() -> set[str]:
    """The versions of iris that have a series."""
    return {
        sample.labels["version"]
        for gauge in (BACKLOG, SERVICE_RATE)
        for family in gauge.collect()
        for sample in family.samples
        if sample.labels["model"] == "iris"
    }

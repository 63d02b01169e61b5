"""How long an empty lane lets its fetches wait."""

import pytest

from inferlane.contracts.naming import Lane
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.fetch_wait import FetchWait


@pytest.mark.parametrize(
    ("empty_s", "wait_ms"), [(0.0, 5), (0.4, 5), (1.0, 10), (10.0, 100), (25.0, 250), (3_600.0, 250)]
)
def test_it_grows_with_the_pause_up_to_the_longest(empty_s: float, wait_ms: int) -> None:
    assert FetchWait(busy_ms=5, idle_ms=250).after(empty_s) == wait_ms


def test_a_broker_that_wakes_a_fetch_is_asked_as_seldom_as_the_settings_say() -> None:
    wait = FetchWait.for_lane(load_settings(fetch_max_wait_ms=500, idle_fetch_max_wait_ms=250).kafka, Lane.REQUESTS)
    assert (wait.after(0.0), wait.after(60.0)) == (500, 500)


def test_with_signals_only_the_records_of_strangers_wait_and_an_idle_lane_asks_every_two_seconds() -> None:
    signalled = {"fetch_max_wait_ms": 2, "idle_fetch_max_wait_ms": 250, "arrivals_dir": "/srv/arrivals"}
    settings = load_settings(kafka_wakes_fetches=False, **signalled)
    wait = FetchWait.for_lane(settings.kafka, Lane.REQUESTS)
    assert (wait.after(0.0), wait.after(10.0), wait.after(3_600.0)) == (50, 200, 2_000)
    # A broker that wakes a fetch holds it.
    wait = FetchWait.for_lane(load_settings(**signalled).kafka, Lane.REQUESTS)
    assert (wait.after(0.0), wait.after(3_600.0)) == (2, 250)


def test_bulk_rests_longer() -> None:
    settings = load_settings(fetch_max_wait_ms=5)
    requests, bulk = (FetchWait.for_lane(settings.kafka, lane) for lane in (Lane.REQUESTS, Lane.BULK))
    assert bulk.busy_ms > requests.busy_ms
    assert bulk.idle_ms > requests.idle_ms

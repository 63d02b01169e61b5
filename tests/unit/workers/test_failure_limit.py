"""A worker whose model fails on most requests stops fetching, and tries again by itself."""

import pytest

from inferlane.contracts.results import Result, Status
from inferlane.runtime.config import load_settings
from tests.support.fakes.clock import FakeClock
from workers.failure_limit import FailureLimit

WINDOW = 20
PAUSE_S = 10.0


def make_limit(clock: FakeClock) -> FailureLimit:
    settings = load_settings(failure_window_requests=WINDOW, failure_share_limit=0.5, failure_pause_s=PAUSE_S)
    return FailureLimit(settings.worker, model="iris", version="v1", clock=clock)


def results(count: int, code: str | None = None) -> list[Result]:
    failed = Status.EXPIRED if code == "deadline_exceeded" else Status.FAILED
    status = Status.SUCCEEDED if code is None else failed
    return [Result(request_id="r", status=status, model="iris", version="v1", error_code=code) for _ in range(count)]


def test_a_model_that_fails_on_most_requests_halts_the_pool() -> None:
    """Guards `note`'s halt: without it, the whole topic is dead-lettered."""
    limit = make_limit(FakeClock())
    limit.note(results(9))
    limit.note(results(10, "model_error"))
    assert limit.allowance(256) == 256
    limit.note(results(1, "model_error"))
    assert limit.is_halted
    assert limit.allowance(256) == 0


def test_a_few_failures_do_not_halt() -> None:
    limit = make_limit(FakeClock())
    for _ in range(100):
        limit.note(results(6))
        limit.note(results(4, "model_error"))
    assert not limit.is_halted


SAYS_NOTHING = ("undecodable", "invalid_input", "payload_too_large", "deadline_exceeded", "cancelled", "internal_error")


@pytest.mark.parametrize("code", SAYS_NOTHING)
def test_what_says_nothing_of_the_model_never_halts_it(code: str) -> None:
    """Guards the count of `failed` in `note`: if every error counts, one bad producer halts the pool for everybody."""
    limit = make_limit(FakeClock())
    limit.note(results(10 * WINDOW, code))
    assert not limit.is_halted


@pytest.mark.parametrize("code", SAYS_NOTHING)
def test_what_says_nothing_of_the_model_hides_no_broken_one(code: str) -> None:
    """Guards the count of `judged` in `note`: if every result counts, a bad producer hides a broken model and
    the pool goes on emptying the topic (seen to fail so)."""
    limit = make_limit(FakeClock())
    for _ in range(WINDOW):
        limit.note(results(3, code))
        limit.note(results(1, "model_error"))
    assert limit.is_halted


@pytest.mark.parametrize("code", SAYS_NOTHING)
def test_a_probe_that_ran_no_model_resumes_nothing(code: str) -> None:
    """Guards the early return of `note`: without it, the first expired requests after a pause resume a broken pool
    (seen to fail so)."""
    clock = FakeClock()
    limit = make_limit(clock)
    limit.note(results(WINDOW, "model_error"))
    clock.advance(PAUSE_S)
    limit.note(results(8, code))
    assert limit.is_halted
    assert limit.allowance(256) == 8


def test_old_failures_are_forgotten() -> None:
    limit = make_limit(FakeClock())
    limit.note(results(WINDOW // 2, "model_error"))
    for _ in range(WINDOW):
        limit.note(results(1))
    limit.note(results(WINDOW // 2, "model_error"))
    assert not limit.is_halted


def test_a_probe_that_succeeds_resumes_and_one_that_fails_doubles_the_pause() -> None:
    clock = FakeClock()
    limit = make_limit(clock)
    limit.note(results(WINDOW, "model_error"))
    clock.advance(PAUSE_S)
    assert limit.allowance(256) == 8
    limit.note(results(8, "model_error"))
    clock.advance(PAUSE_S)
    assert limit.allowance(256) == 0
    clock.advance(PAUSE_S)
    limit.note(results(8))
    assert not limit.is_halted
    assert limit.allowance(256) == 256


def test_late_results_of_the_failing_takes_are_no_probe() -> None:
    clock = FakeClock()
    limit = make_limit(clock)
    limit.note(results(WINDOW, "model_error"))
    limit.note(results(5))
    assert limit.is_halted

"""Records of callbacks: what is written is read again, through any number of retries and a dead letter."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.callbacks import CallbackOrder, callback_record, fresh_headers, read_callback, retry_record
from inferlane.contracts.naming import CALLBACK_STAGES
from inferlane.contracts.results import Result, Status
from tests.support.fakes.records import FakeRecord
from webhook_sender.dispatcher import retry_delay_s, retry_stage, stage_after
from webhook_sender.http_sender import wait_of

TIMES_S = st.floats(0, 4_000_000_000)


@example(caller="", tries=0, first_s=0.0, due_s=1.5744998455047607)
@given(caller=st.text(max_size=20), tries=st.integers(0, 1_000), first_s=TIMES_S, due_s=TIMES_S)
def test_a_retry_is_the_same_callback_later(caller: str, tries: int, first_s: float, due_s: float) -> None:
    result = Result(request_id="r", status=Status.FAILED, model="iris", version="v1", caller=caller, error_detail="é")
    out = callback_record("t", result, CallbackOrder(url="https://example.com/h"), classes={})
    first = read_callback(FakeRecord(value=out.value, headers=tuple(out.headers)))
    again = out
    for _ in range(2):
        record = FakeRecord(key=again.key, value=again.value, headers=tuple(again.headers))
        again = retry_record("t", record, tries=tries, first_tried_s=first_s, due_s=due_s)
    second = read_callback(FakeRecord(value=again.value, headers=tuple(again.headers)))
    assert (first.callback_id, first.url, first.caller, first.body) == (
        "r-1",
        "https://example.com/h",
        caller,
        out.value,
    )
    assert (second.callback_id, second.url, second.caller, second.body) == (
        first.callback_id,
        first.url,
        first.caller,
        first.body,
    )
    # The header has microseconds.
    assert (second.tries, second.due_s) == (tries, pytest.approx(due_s, rel=0, abs=2e-6))
    assert fresh_headers(again.headers) == out.headers


def test_a_receiver_that_names_a_time_gets_the_first_stage_that_is_as_long() -> None:
    """A callback that waited longer than its topic would hold up those behind it."""
    waits = (0.0, 5.0, 5.1, 80.0, 81.0, 1280.0, 1e9)
    assert [stage_after(wait_s, 5.0) for wait_s in waits] == [1, 1, 2, 3, 4, 5, 5]


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time is hours behind UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("", 0.0),
        ("120", 120.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("9" * 400, 999_999_999.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu Jan  1 00:02:00 1970", 20.0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
@pytest.mark.usefixtures("in_new_york")
def test_what_a_retry_after_asks_for(said: str, wait_s: float) -> None:
    assert wait_of(said, now_s=100.0) == wait_s


def test_each_wait_is_four_times_the_one_before_and_the_last_one_stays() -> None:
    delays = [retry_delay_s(retry_stage(tries), 5.0) for tries in range(8)]
    assert delays == [5.0, 5.0, 20.0, 80.0, 320.0, 1280.0, 1280.0, 1280.0]
    assert {retry_stage(tries) for tries in range(100)} == set(range(1, CALLBACK_STAGES + 1))

"""Records of callbacks: what is written is read again, through any number of retries and a dead letter."""

from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.callbacks import CallbackOrder, callback_record, fresh_headers, read_callback, retry_record
from inferlane.contracts.naming import CALLBACK_STAGES
from inferlane.contracts.results import Result, Status
from tests.support.fakes.records import FakeRecord
from webhook_sender.dispatcher import retry_delay_s, retry_stage

TIMES_S = st.floats(0, 4_000_000_000)


@given(caller=st.text(max_size=20), tries=st.integers(0, 1_000), first_s=TIMES_S, due_s=TIMES_S)
def test_a_retry_is_the_same_callback_later(caller: str, tries: int, first_s: float, due_s: float) -> None:
    result = Result(request_id="r", status=Status.FAILED, model="iris", version="v1", caller=caller, error_detail="é")
    out = callback_record("t", result, CallbackOrder(url="https://example.com/h"), classes=())
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
    assert (second.tries, round(second.due_s, 3)) == (tries, round(due_s, 3))
    assert fresh_headers(again.headers) == out.headers


def test_each_wait_is_four_times_the_one_before_and_the_last_one_stays() -> None:
    delays = [retry_delay_s(retry_stage(tries), 5.0) for tries in range(8)]
    assert delays == [5.0, 5.0, 20.0, 80.0, 320.0, 1280.0, 1280.0, 1280.0]
    assert {retry_stage(tries) for tries in range(100)} == set(range(1, CALLBACK_STAGES + 1))

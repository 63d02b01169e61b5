"""How long a call waits before it is sent again, by the steps of the core alone: no clock runs."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from inferlane_client import Overloaded, Request, Retries
from inferlane_client.call_errors import refusal
from inferlane_client.exchanges import JsonExchanges
from inferlane_client.retries import HttpReply, Pause, Send

REQUEST = Request(rows=[[1.0]])


def busy(retry_after: str | None = None) -> HttpReply:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return HttpReply(status=503, headers=headers, body=b'{"code": "overloaded", "retryable": true}')


def test_the_wait_doubles_up_to_its_limit_with_full_jitter() -> None:
    retries = Retries(first_s=1, longest_s=8)
    for attempt, most_s in enumerate((1, 2, 4, 8, 8, 8)):
        delays_s = [retries.delay_s(attempt, None) for _ in range(200)]
        assert 0 <= min(delays_s) < most_s / 2 < max(delays_s) <= most_s


def test_the_server_is_left_alone_for_as_long_as_it_asks() -> None:
    steps = JsonExchanges(Retries(first_s=1), clock=lambda: 0.0).predict(REQUEST, timeout_s=60)
    assert isinstance(next(steps), Send)
    pause = steps.send(busy("7"))
    assert isinstance(pause, Pause)
    assert 7 <= pause.seconds <= 8


def test_time_that_passes_shortens_what_the_server_is_asked_to_wait_and_ends_the_retries() -> None:
    now_s = 0.0
    steps = JsonExchanges(Retries(first_s=0, longest_s=0), clock=lambda: now_s).predict(REQUEST, timeout_s=20)
    first = next(steps)
    assert isinstance(first, Send)
    assert (first.headers["prefer"], first.timeout_s) == ("wait=19", 20)
    assert steps.send(busy()) == Pause(0)
    now_s = 15.0
    second = steps.send(None)
    assert isinstance(second, Send)
    assert (second.headers["prefer"], second.timeout_s) == ("wait=4", 5)
    assert second.body == first.body
    now_s = 20.0
    with pytest.raises(Overloaded):
        steps.send(busy())


def test_a_retry_after_may_be_a_date_and_what_is_neither_is_passed_over() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < (refusal(503, {"retry-after": in_a_minute}, b"").retry_after_s or 0) <= 60
    assert refusal(503, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, b"").retry_after_s == 0
    assert refusal(503, {"retry-after": "soon"}, b"").retry_after_s is None

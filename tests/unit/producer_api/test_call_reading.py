"""The body of a predict call: every field once, and what it says taken or refused."""

import pytest

from inferlane.errors import CallbackRefusedError, DecodeError, InferlaneError
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from producer_api.predict.call import CallReader
from tests.support.fakes.records import make_catalog

READER = CallReader(
    load_settings().api,
    load_settings().kafka,
    load_settings().webhooks,
    catalog=make_catalog(),
    splits=SplitTable(),
    clock=SystemClock(),
)


def test_every_field_is_taken() -> None:
    call = READER.read(
        b'{"model": "iris", "version": "v2", "routing_key": "u", "timeout_s": 0, "deadline_s": 9, '
        b'"instances": [[1,2,3,4]]}'
    )
    assert (call.model, call.version, call.routing_key, call.wait_s) == ("iris", "v2", "u", 0.0)
    assert call.deadline_s - call.accepted_s == pytest.approx(9)


def test_null_is_as_if_it_were_absent() -> None:
    call = READER.read(b'{"instances": [[1,2,3,4]], "model": null, "version": null, "routing_key": null}')
    assert (call.model, call.version, call.routing_key) == ("iris", None, None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1,2,3,4]], "instances": [[5,6,7,8]]}',
        b'{"instances": [[1,2,3,4]], "model": "other", "model": "iris"}',
        b'{"instances": [[1,2,3,4]], "version": "v1", "v\\u0065rsion": "v2"}',
        b'{"timeout_s": 1, "instances": [[1,2,3,4]], "timeout_s": 2}',
    ],
)
def test_a_field_that_is_there_twice_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError, match="twice"):
        READER.read(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1,2,3,4]], "' + b"x" * 7_000_000 + b'": 1}',
        b'{"instances": [[1,2,3,4]], "model": "' + b"x" * 7_000_000 + b'"}',
        b'{"instances": [[1,2,3,"' + b"x" * 7_000_000 + b'"]]}',
        b'{"instances": [[1,2,3,' + b"9" * 7_000_000 + b"]]}",
        b'{"instances": [{"' + b"x" * 7_000_000 + b'": 1}]}',
        b'{"instances": [[1,2,3,4]], "timeout_s": 1' + b"0" * 300 + b"}",
    ],
)
def test_an_error_repeats_a_bounded_part_of_the_body(body: bytes) -> None:
    with pytest.raises(InferlaneError) as caught:
        READER.read(body)
    assert len(str(caught.value)) < 700


CALLBACK = b'{"instances": [[1,2,3,4]], "callback_url": "%s"}'


def test_a_callback_url_is_refused_where_no_callbacks_are_sent() -> None:
    with pytest.raises(CallbackRefusedError, match="INFERLANE_WEBHOOKS"):
        READER.read(CALLBACK % b"https://example.com/hook")
    assert READER.read(CALLBACK % b"").callback_url is None


def test_a_callback_url_is_checked_where_they_are() -> None:
    settings = load_settings(webhooks=True, webhook_allowed_networks="10.1.0.0/16")
    reader = CallReader(
        settings.api,
        settings.kafka,
        settings.webhooks,
        catalog=make_catalog(),
        splits=SplitTable(),
        clock=SystemClock(),
    )
    for good in (b"https://example.com/hook?x=1", b"http://10.1.2.3:8080/"):
        assert reader.read(CALLBACK % good).callback_url == good.decode()
    for bad in (b"http://10.2.0.1/", b"http://169.254.169.254/", b"ftp://example.com/", b"https://u:p@example.com/"):
        with pytest.raises(CallbackRefusedError):
            reader.read(CALLBACK % bad)

"""Request headers: defaults for what is missing, DecodeError for what cannot be read."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.kafka_record import format_time, parse_time, trace_id_of
from inferlane.contracts.record import JSON_LENGTH, TRACE_PARENT, RequestHeaders, default_headers, read_headers
from inferlane.errors import DecodeError
from tests.support.fakes.records import FakeRecord


def test_a_record_with_nothing_but_a_value_gets_the_defaults() -> None:
    headers = read_headers(FakeRecord(value=b"x"))
    assert headers.position == "inferlane.requests-0-7"
    assert headers.accepted_s == 1_700_000_000.0
    assert (headers.model, headers.version, headers.deadline_s, headers.reply_to) == (None, None, None, None)
    assert headers.attempt == 1


@pytest.mark.parametrize("timestamp", [-1, 1_700_000_000_000_000_000, 2**63 - 1])
def test_a_timestamp_that_no_calendar_holds_can_still_be_written(timestamp: int) -> None:
    assert format_time(read_headers(FakeRecord(timestamp=timestamp)).accepted_s) == b"1970-01-01T00:00:00.000000+00:00"


@given(st.floats(0, 4e9))
def test_a_time_comes_back_to_the_microsecond(seconds: float) -> None:
    assert parse_time(format_time(seconds)) == pytest.approx(seconds, abs=1e-6)
    assert format_time(seconds) == datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").encode()


@pytest.mark.parametrize("raw", [b"2026-01-31t12:00:00z", b"2026-01-31T12:00:00Z", b"2026-01-31t13:00:00+01:00"])
def test_a_time_may_be_written_in_small_letters(raw: bytes) -> None:
    assert format_time(parse_time(raw)) == b"2026-01-31T12:00:00.000000+00:00"


@pytest.mark.parametrize(
    "header",
    [
        ("ce_deadline", b"tomorrow"),
        ("ce_time", b"2026-01-01T00:00:00"),
        ("ce_attempt", b"one"),
        ("ce_attempt", b"99999999999999999999999"),
        ("ce_attempt", b"0"),
        ("ce_id", b"x" * 10_000),
        ("ce_id", b"\xff"),
        ("ce_model", b"x" * 513),
        ("ce_modelversion", b"x" * 513),
        ("ce_batchid", b"x" * 513),
        ("inference-header-content-length", b"x"),
    ],
)
def test_a_header_that_cannot_be_read_is_a_decode_error_and_has_defaults(header: tuple[str, bytes]) -> None:
    is_batch_id = header[0] == "ce_batchid"
    record = FakeRecord(headers=(header,) if is_batch_id else (header, ("ce_batchid", b"batch-1")))
    with pytest.raises(DecodeError):
        read_headers(record)
    assert default_headers(record).batch_id == ("x" * 512 if is_batch_id else "batch-1")


@given(st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=10)), max_size=5))
def test_arbitrary_headers_raise_only_decode_errors(headers: list[tuple[str, bytes]]) -> None:
    record = FakeRecord(headers=tuple(headers))
    default_headers(record)
    with suppress(DecodeError):
        read_headers(record)


@given(st.integers(0, 2_000), st.sampled_from(["ce_id", "ce_replyto", "ce_batchid"]))
def test_no_header_makes_a_result_that_cannot_be_written(length: int, name: str) -> None:
    """Guards `MAX_NAME_BYTES`: taken out, a batch id of 5 MB stands twice in its result, which no broker takes, and the
    worker ends and meets the record again after each restart (seen to fail so)."""
    record = FakeRecord(headers=((name, b"x" * length),))
    headers = default_headers(record)
    with suppress(DecodeError):
        headers = read_headers(record)
    for text in (headers.request_id, headers.reply_to, headers.batch_id):
        assert text is None or len(text) <= 512


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        (b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01later", None),
        (b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-" + b"x" * 1_000, None),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", None),
        (b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        (b"00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        (b"\xff", None),
        (None, None),
    ],
)
def test_a_trace_id_is_read_from_a_traceparent_as_the_standard_writes_it(
    header: bytes | None, trace_id: str | None
) -> None:
    assert trace_id_of(header) == trace_id


@pytest.mark.parametrize("raw", [b"", b"00-zz-11-01", b"\xff\xfe", b"0" * 1_000_000])
@pytest.mark.parametrize("read", [read_headers, default_headers])
def test_a_trace_parent_that_is_none_does_not_travel_on(
    read: Callable[[FakeRecord], RequestHeaders], raw: bytes
) -> None:
    assert read(FakeRecord(headers=((TRACE_PARENT, raw),))).trace_parent is None
    good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert read(FakeRecord(headers=((TRACE_PARENT, good),))).trace_parent == good


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_model", "ce_deadline", "ce_replyto", JSON_LENGTH])
@pytest.mark.parametrize("second", [b"b", b"a"])
def test_a_header_of_ours_that_is_there_twice_is_refused_by_name(name: str, second: bytes) -> None:
    """The last used to win in silence: a record could be answered under one id and looked for under the other."""
    record = FakeRecord(headers=((name, b"a"), ("mine", b"1"), ("mine", b"2"), (name, second)))
    with pytest.raises(DecodeError, match=f"the header {name!r} more than once"):
        read_headers(record)
    headers = default_headers(record)
    assert headers.request_id not in {"a", "b"}
    assert headers.reply_to is None


def test_a_header_of_somebody_else_may_be_there_twice() -> None:
    assert read_headers(FakeRecord(headers=(("mine", b"1"), ("mine", b"2"), ("ce_id", b"a")))).request_id == "a"

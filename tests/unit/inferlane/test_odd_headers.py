"""Whatever headers a stranger's record has, its readers raise `DecodeError` alone; a header may have no value."""

from contextlib import suppress
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.callbacks import DUE, FIRST_TRIED, TRIES, read_callback, retry_record
from inferlane.contracts.dead_letters import Cause, dead_letter, read_dead_letter
from inferlane.contracts.record import default_headers, read_headers
from inferlane.contracts.shadow import answer_of
from inferlane.errors import DecodeError
from tests.support.fakes.records import FakeRecord

_NAMES = [
    "ce_id ce_time ce_deadline ce_model ce_modelversion ce_source ce_attempt ce_replyto ce_callbackurl ce_callbackid",
    "ce_fallback ce_shadow ce_rollout content-type traceparent inferlane-dead-letter-reason",
    "inferlane-dead-letter-detail inferlane-dead-letter-attempts inferlane-dead-letter-offset",
]
HEADER_NAMES = [*" ".join(_NAMES).split(), TRIES, FIRST_TRIED, DUE]
VALUES = [
    None,
    b"",
    b"\xff",
    b"-1",
    b"nan",
    b"9" * 4_300,
    b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:59Z",
    b"2026-11-26T00:00:00Z",
    b"https://example.com/",
]
HEADERS = st.lists(
    st.tuples(st.sampled_from(HEADER_NAMES), st.sampled_from(VALUES) | st.binary(max_size=30)), max_size=12
)


@given(headers=HEADERS, value=st.none() | st.binary(max_size=20))
@example(headers=[("ce_id", None)], value=None)
def test_readers_of_records_raise_only_decode_errors(headers: Any, value: bytes | None) -> None:
    record = FakeRecord(value=value, headers=tuple(headers))
    for read in (read_headers, default_headers, read_dead_letter, answer_of):
        with suppress(DecodeError):
            read(record)
    for limit_bytes in (-1, 0, 100):
        read_dead_letter(_written(dead_letter(record, _CAUSE, topic="t", limit_bytes=limit_bytes)))


@given(headers=HEADERS)
def test_a_callback_that_can_be_read_can_be_written_for_another_try(headers: Any) -> None:
    needed = dict.fromkeys(("ce_id", "ce_callbackid", "ce_callbackurl"), b"x") | {"ce_time": b"2026-11-26T00:00:00Z"}
    record = FakeRecord(value=b"{}", headers=tuple({**needed, **dict(headers)}.items()))
    with suppress(DecodeError):
        found = read_callback(record)
        retry_record(
            "t", record, tries=found.tries + 1, first_tried_s=found.first_tried_s or found.due_s, due_s=found.due_s
        )


_CAUSE = Cause(reason="undecodable", detail="", attempts=1)


def _written(out: Any) -> FakeRecord:
    return FakeRecord(value=out.value, headers=tuple(out.headers))

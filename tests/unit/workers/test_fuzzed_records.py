"""Whatever a record holds, router and worker make a terminal reply for it and go on."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.dead_letters import Cause, dead_letter
from inferlane.contracts.kafka_record import check_size
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_LENGTH, identified
from inferlane.contracts.results import Status, decode_result, encode_result
from inferlane.errors import PayloadTooLargeError
from inferlane.runtime.config import load_settings
from inferlane.runtime.delivery import Reply, _result_record
from inferlane.runtime.kafka.clients import record_limit_bytes
from inferlane.runtime.retry import Retrier
from inferlane.runtime.split_table import SplitTable
from router.forwarder import Forwarder
from router.routed_records import refusal
from tests.support.decoding import decode
from tests.support.fakes.records import FakeRecord, make_catalog, make_version
from workers.replies import ReplyBuilder
from workers.requests import UNREADABLE, headers_of

SETTINGS = load_settings()
LIMIT_BYTES = record_limit_bytes(SETTINGS.kafka)
NAMES = [
    "ce_id",
    "ce_time",
    "ce_deadline",
    "ce_attempt",
    "ce_model",
    "ce_modelversion",
    "ce_replyto",
    "ce_routingkey",
    "ce_batchid",
    "ce_type",
    "content-type",
    JSON_LENGTH,
]
HEADER_VALUES = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.integers(-(10**30), 10**30).map(lambda number: str(number).encode()),
    st.sampled_from([b"", b"iris", b"v1", b"nan", b"1e999", b"\x00", b"0001-01-01T00:00:00+23:59", b"9" * 5000]),
    st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat().encode()),
    st.integers(1, 3).map(lambda mebibytes: b"x" * (mebibytes << 20)),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=300),
    st.builds(lambda rows: f'{{"instances": {rows}}}'.replace("'", '"').encode(), JSON_VALUES),
    st.builds(lambda data: f'{{"inputs": [{data}]}}'.replace("'", '"').encode(), JSON_VALUES),
    st.sampled_from(
        [b'{"instances": [[1, 2, 3, 4]]}', b'{"instances": ' + b"[" * 5000, b'{"instances": [[1e999, 0, 0, 0]]}']
    ),
)
RECORDS = st.builds(
    FakeRecord,
    timestamp=st.integers(-(2**63), 2**63 - 1),
    key=st.none() | st.binary(max_size=20),
    value=VALUES,
    headers=st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=8), HEADER_VALUES), max_size=8).map(tuple),
)
HOSTILE = FakeRecord(headers=tuple((name, b"x" * 3_000_000) for name in NAMES))
HUGE = FakeRecord(key=b"k" * 60_000, value=b"v" * SETTINGS.kafka.max_body_bytes)


@pytest.fixture(scope="module")
def forwarder() -> Forwarder:
    return Forwarder(
        SETTINGS.stack.names,
        SETTINGS.webhooks,
        catalog=make_catalog(),
        splits=SplitTable(),
        producer=None,  # type: ignore[arg-type]  # deciding sends nothing
        delivery=None,  # type: ignore[arg-type]  # nor does it deliver
        retrier=Retrier(),
    )


def assert_deliverable(answer: Reply, record: Any) -> None:
    """`Delivery.deliver` can write the reply: nothing in it stops the lane."""
    result = answer.result
    assert result.status in {Status.FAILED, Status.EXPIRED}
    assert result.error_code
    assert answer.dead is record
    assert decode_result(encode_result(result)) == result
    cause = Cause(
        reason=result.error_code, detail=result.error_detail or "", attempts=result.attempt, stack=answer.stack
    )
    letter = dead_letter(record, cause, topic="dead", limit_bytes=SETTINGS.kafka.max_body_bytes)
    check_size(letter, LIMIT_BYTES)
    check_size(_result_record("results", answer), LIMIT_BYTES)


@given(record=RECORDS, lane=st.sampled_from(Lane))
@example(record=HOSTILE, lane=Lane.BULK)
@example(record=replace(HOSTILE, headers=HOSTILE.headers[4:9]), lane=Lane.BULK)
@example(record=HUGE, lane=Lane.REQUESTS)
def test_the_router_routes_or_answers_every_record(forwarder: Forwarder, record: FakeRecord, lane: Lane) -> None:
    """Guards the three `except` of `Forwarder.decide` and the bounds of `RequestHeaders`; fails without them."""
    decision = forwarder.decide(record, lane)
    if isinstance(decision, Reply):
        assert_deliverable(decision, record)
    else:
        try:
            check_size(decision.out, LIMIT_BYTES)
        except PayloadTooLargeError as error:
            # What the producer says of it; the lane goes on.
            assert_deliverable(refusal(record, lane, identified(decision.headers, record), error), record)


@given(record=RECORDS, lane=st.sampled_from(Lane))
@example(record=HOSTILE, lane=Lane.BULK)
@example(record=replace(HOSTILE, headers=HOSTILE.headers[4:9]), lane=Lane.BULK)
@example(record=HUGE, lane=Lane.REQUESTS)
def test_the_worker_decodes_or_answers_every_record(record: FakeRecord, lane: Lane) -> None:
    """Guards `UNREADABLE` of `workers.requests` and what its members are raised for; fails without one of them."""
    replies = ReplyBuilder(
        make_version(), names=SETTINGS.stack.names, max_result_bytes=SETTINGS.kafka.max_result_bytes, results_sample=0.0
    )
    try:
        request = decode(record, lane, make_version())
    except UNREADABLE as error:
        assert_deliverable(replies.of_error(record, headers_of(record), lane, error, now_s=1.0), record)
    else:
        assert request.rows == len(request.tensors["input"]) >= 1
        replies.of_expired(request.headers, lane, now_s=1.0)

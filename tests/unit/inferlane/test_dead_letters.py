"""Dead letters: what is dead-lettered can be read whole, and sent again as the same request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.dead_letters import Cause, dead_letter, read_dead_letter, stack_of
from inferlane.contracts.kafka_record import check_size, parse_time
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import read_headers
from inferlane.errors import DecodeError, ModelError
from inferlane.runtime.config import load_settings
from inferlane.runtime.dead_letter_replay import NotReplayableError, prepare
from inferlane.runtime.kafka.clients import record_limit_bytes
from inferlane.runtime.service_settings import ApiSettings
from inferlane.runtime.settings import KafkaSettings, StackSettings
from tests.support.fakes.records import FakeRecord

STACK = Names()

CAUSE = Cause(reason="model_error", detail="the model failed", attempts=2, stack="session.py:60 run\nModelError")
NOW_S = 1_700_000_000.0


def dead_lettered(record: FakeRecord, *, limit_bytes: int = 1_000, cause: Cause = CAUSE) -> FakeRecord:
    """The letter as a consumer reads it."""
    letter = dead_letter(record, cause, topic="dead", limit_bytes=limit_bytes)
    return FakeRecord(
        topic=letter.topic, offset=3, key=letter.key, value=letter.value, headers=tuple(letter.headers), timestamp=5_000
    )


NAMES = st.one_of(st.sampled_from(["ce_type", "ce_id", "ce_deadline"]), st.text(max_size=8))
RECORDS = st.builds(
    FakeRecord,
    topic=st.sampled_from(["inferlane.requests", "inferlane.iris.v1.bulk"]),
    partition=st.integers(0, 100),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-1, 2**63 - 1),
    key=st.none() | st.binary(max_size=8),
    value=st.none() | st.binary(max_size=100),
    headers=st.lists(st.tuples(NAMES, st.binary(max_size=8)), max_size=6).map(tuple),
)


@given(RECORDS)
def test_a_buried_record_is_read_as_it_was(record: FakeRecord) -> None:
    """Guards `_own_header` and `absent`: taken out, a record loses its type, or a key that was missing is empty."""
    letter = read_dead_letter(dead_lettered(record))
    for name in ("topic", "partition", "offset", "timestamp", "key", "value", "headers"):
        assert getattr(letter.original, name) == getattr(record, name)
    assert (letter.cause, letter.cut, letter.offset, letter.dead_lettered_s) == (CAUSE, None, 3, 5.0)


@pytest.mark.parametrize("key_bytes", [0, 40_000])
@pytest.mark.parametrize("value", [b"", b"v" * (8 * 2**20 + 1)], ids=["empty", "large"])
@pytest.mark.parametrize("headers", [(0, 0), (1_900, 1), (6_000, 1), (1, 32_000), (1, 60_000)])
@pytest.mark.parametrize("id_bytes", [16, 30_000, 100_000])
def test_every_record_has_a_letter_that_can_be_written(
    key_bytes: int, value: bytes, headers: tuple[int, int], id_bytes: int
) -> None:
    """Guards the limits of key, id and headers, frames included: taken out, whoever meets such a record cannot keep it,
    ends, and meets it again after each restart (seen to fail so)."""
    settings = load_settings()
    count, size = headers
    record = FakeRecord(
        key=b"k" * key_bytes, value=value, headers=(("ce_id", b"i" * id_bytes), *[("h", b"x" * size)] * count)
    )
    cause = Cause(reason="undecodable", detail="\N{SNOWMAN}" * 5_000, attempts=1_000_000, stack="s" * 9_000)
    check_size(
        dead_letter(record, cause, topic="dead", limit_bytes=settings.kafka.max_body_bytes),
        record_limit_bytes(settings.kafka),
    )


@pytest.mark.parametrize(
    ("record", "part"),
    [
        (FakeRecord(value=b"v" * 1_001), "value"),
        (FakeRecord(key=b"k" * 100_000), "key"),
        (FakeRecord(headers=(("big", b"x" * 100_000),)), "headers"),
        (FakeRecord(headers=(("", b""),) * 20_000), "headers"),
    ],
    ids=["value", "key", "a large header", "many headers"],
)
def test_what_was_not_kept_whole_says_so(record: FakeRecord, part: str) -> None:
    cut = read_dead_letter(dead_lettered(record)).cut
    assert cut is not None
    assert part in cut


@pytest.mark.parametrize(
    "headers",
    [(), (("inferlane-dead-letter-reason", b"\xff"),), (("inferlane-dead-letter-reason", None),)],
)
def test_a_record_that_is_no_letter_says_so(headers: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(DecodeError, match="offset 7 is no dead letter"):
        read_dead_letter(FakeRecord(headers=headers))


def test_a_replay_is_the_same_request_with_another_attempt_and_a_fresh_deadline() -> None:
    """Guards that `ce_id` is said: the default id is made of the position too, and a replay has another one."""
    work = STACK.work_topic("iris", "v1", Lane.REQUESTS)
    headers = (("ce_modelversion", b"v1"), ("ce_replyto", b"api"), ("ce_deadline", b"2020-01-01T00:00:00Z"))
    original = FakeRecord(topic=work, partition=2, offset=9, value=b"v", headers=headers)
    letter = read_dead_letter(dead_lettered(original))
    replay = prepare(
        letter,
        ApiSettings(default_deadline_s=60),
        KafkaSettings(),
        StackSettings(),
        to_version=None,
        now_s=NOW_S,
    )
    sent = dict(replay.record.headers)
    assert replay.record.topic == "inferlane.requests"
    asked = read_headers(original)
    assert (sent["ce_id"], replay.key) == (asked.request_id.encode(), asked.key)
    assert (sent["ce_attempt"], sent["ce_modelversion"], sent["ce_replyto"]) == (b"3", b"v1", b"api")
    assert parse_time(sent["ce_deadline"]) == NOW_S + 60
    assert len(sent) == len(replay.record.headers)


def test_a_replay_can_go_to_another_version_and_keeps_its_lane() -> None:
    record = FakeRecord(topic=STACK.work_topic("iris", "v1", Lane.BULK), headers=(("ce_modelversion", b"v1"),))
    replay = prepare(
        read_dead_letter(dead_lettered(record)),
        ApiSettings(),
        KafkaSettings(),
        StackSettings(),
        to_version="v2",
        now_s=NOW_S,
    )
    assert replay.record.topic == "inferlane.bulk"
    assert [value for name, value in replay.record.headers if name == "ce_modelversion"] == [b"v2"]


def test_a_record_that_was_not_kept_whole_is_not_replayed() -> None:
    """Guards the look at `cut`: taken out, half a request is answered as if it were all of it."""
    for record in (FakeRecord(value=b"v" * 50), FakeRecord(headers=(("h", b"v" * 40_000), ("ce_id", b"r")))):
        letter = read_dead_letter(dead_lettered(record, limit_bytes=10))
        with pytest.raises(NotReplayableError, match="not kept whole"):
            prepare(letter, ApiSettings(), KafkaSettings(), StackSettings(), to_version=None, now_s=NOW_S)


def test_a_summary_of_outcomes_is_not_replayed() -> None:
    letter = read_dead_letter(dead_lettered(FakeRecord(topic=STACK.outcomes)))
    with pytest.raises(NotReplayableError, match="no request"):
        prepare(letter, ApiSettings(), KafkaSettings(), StackSettings(), to_version=None, now_s=NOW_S)


def test_the_stack_names_where_the_innermost_cause_was_raised_and_no_values() -> None:
    def innermost() -> None:
        raise ValueError("a secret value")

    def outer() -> None:
        try:
            innermost()
        except ValueError as error:
            raise ModelError("failed") from error

    with pytest.raises(ModelError) as raised:
        outer()
    lines = stack_of(raised.value).splitlines()
    assert lines[-2].endswith("innermost")
    assert lines[-1] == "ValueError"
    assert "secret" not in stack_of(raised.value)

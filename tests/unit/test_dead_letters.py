"""Dead letters: what is buried can be read whole, and sent again as the same request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.config import load_settings
from inferlane.dead_letters import Cause, dead_letter, read_dead_letter, stack_of
from inferlane.errors import DecodeError, ModelError
from inferlane.record import parse_time
from inferlane.replaying import NotReplayableError, prepare
from inferlane.topics import OUTCOMES, Lane, work_topic
from tests.fakes.records import FakeRecord

CAUSE = Cause(reason="model_error", detail="the model failed", attempts=2, stack="session.py:60 run\nModelError")
NOW_S = 1_700_000_000.0


def bury(record: FakeRecord, *, limit_bytes: int = 1_000, cause: Cause = CAUSE) -> FakeRecord:
    """The letter as a consumer reads it."""
    letter = dead_letter(record, cause, limit_bytes=limit_bytes)
    return FakeRecord(
        topic=letter.topic, offset=3, key=letter.key, value=letter.value, headers=tuple(letter.headers), timestamp=5_000
    )


names = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20)


@given(
    headers=st.lists(st.tuples(names.filter(lambda name: name != "ce_type"), st.binary(max_size=50)), max_size=5),
    own_type=st.none() | names,
    key=st.binary(min_size=1, max_size=20),
    value=st.binary(max_size=100),
)
def test_a_buried_record_is_read_as_it_was(
    headers: list[tuple[str, bytes]], own_type: str | None, key: bytes, value: bytes
) -> None:
    """Guards the kept `type`: taken out, a record loses the type that it had."""
    own = [("ce_type", own_type.encode())] if own_type else []
    record = FakeRecord(topic="t", partition=4, offset=9, key=key, value=value, headers=(*headers, *own))
    letter = read_dead_letter(bury(record))
    original = letter.original
    assert (original.topic, original.partition, original.offset) == ("t", 4, 9)
    assert (original.key, original.value, original.timestamp) == (key, value, record.timestamp)
    assert original.headers == record.headers
    assert (letter.cause, letter.cut, letter.offset, letter.buried_s) == (CAUSE, None, 3, 5.0)


@pytest.mark.parametrize("headers", [(), (("inferlane-dead-letter-reason", b"\xff"),)])
def test_a_record_that_is_no_letter_says_so(headers: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(DecodeError, match="offset 7 is no dead letter"):
        read_dead_letter(FakeRecord(headers=headers))


def test_a_replay_is_the_same_request_with_another_attempt_and_a_fresh_deadline() -> None:
    """Guards that `ce_id` is said: the default id is made of a position, and a replay has another one."""
    work = work_topic("iris", "v1", Lane.REQUESTS)
    headers = (("ce_modelversion", b"v1"), ("ce_replyto", b"api"), ("ce_deadline", b"2020-01-01T00:00:00Z"))
    letter = read_dead_letter(bury(FakeRecord(topic=work, partition=2, offset=9, value=b"v", headers=headers)))
    replay = prepare(letter, load_settings(default_deadline_s=60), to_version=None, now_s=NOW_S)
    sent = dict(replay.record.headers)
    assert replay.record.topic == "inferlane.requests"
    assert (sent["ce_id"], replay.request_id) == (f"{work}-2-9".encode(), f"{work}-2-9")
    assert (sent["ce_attempt"], sent["ce_modelversion"], sent["ce_replyto"]) == (b"3", b"v1", b"api")
    assert parse_time(sent["ce_deadline"]) == NOW_S + 60
    assert len(sent) == len(replay.record.headers)


def test_a_replay_can_go_to_another_version_and_keeps_its_lane() -> None:
    record = FakeRecord(topic=work_topic("iris", "v1", Lane.BULK), headers=(("ce_modelversion", b"v1"),))
    replay = prepare(read_dead_letter(bury(record)), load_settings(), to_version="v2", now_s=NOW_S)
    assert replay.record.topic == "inferlane.bulk"
    assert [value for name, value in replay.record.headers if name == "ce_modelversion"] == [b"v2"]


def test_a_record_that_was_not_kept_whole_is_not_replayed() -> None:
    """Guards the look at `cut`: taken out, half a request is answered as if it were all of it."""
    for record in (FakeRecord(value=b"v" * 50), FakeRecord(headers=(("h", b"v" * 40_000), ("ce_id", b"r")))):
        letter = read_dead_letter(bury(record, limit_bytes=10))
        with pytest.raises(NotReplayableError, match="not kept whole"):
            prepare(letter, load_settings(), to_version=None, now_s=NOW_S)


def test_a_summary_of_outcomes_is_not_replayed() -> None:
    letter = read_dead_letter(bury(FakeRecord(topic=OUTCOMES)))
    with pytest.raises(NotReplayableError, match="no request"):
        prepare(letter, load_settings(), to_version=None, now_s=NOW_S)


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

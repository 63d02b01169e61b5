"""A batch that could not be read is answered by whoever consumes it, and its dead letter says where it lies."""

import pytest

from control_plane.topic_admin import Lane
from inferlane.contracts.dead_letters import Cause, dead_letter, read_dead_letter
from inferlane.contracts.kafka_record import is_unreadable, refuse_unreadable, unreadable_headers
from inferlane.contracts.record import read_headers
from inferlane.errors import DecodeError
from inferlane.runtime.config import load_settings
from inferlane.runtime.delivery import Reply
from inferlane.runtime.retry import Retrier
from inferlane.runtime.split_table import SplitTable
from router.forwarder import Forwarder
from tests.support.decoding import decode
from tests.support.fakes.records import IRIS, FakeRecord, make_catalog

SETTINGS = load_settings()
WHERE = "the batch with the offsets 7 to 9 of inferlane.requests, partition 3, cannot be read: its CRC is another"
RECORD = FakeRecord(partition=3, value=b"raw batch", headers=unreadable_headers("its CRC is another", last_offset=9))


def test_the_router_answers_it_and_keeps_it_as_a_dead_letter() -> None:
    forwarder = Forwarder(
        SETTINGS.stack.names,
        SETTINGS.webhooks,
        catalog=make_catalog(),
        splits=SplitTable(),
        producer=None,  # type: ignore[arg-type]  # deciding sends nothing
        delivery=None,  # type: ignore[arg-type]  # nor does it deliver
        retrier=Retrier(),
    )
    answer = forwarder.decide(RECORD, Lane.REQUESTS)
    assert isinstance(answer, Reply)
    assert answer.dead is RECORD
    assert WHERE in (answer.result.error_detail or "")


def test_the_worker_refuses_it_with_where_it_lies() -> None:
    with pytest.raises(DecodeError, match=WHERE):
        decode(RECORD, Lane.REQUESTS, IRIS)


def test_its_dead_letter_names_the_place_and_is_not_replayed() -> None:
    cause = Cause(reason="undecodable", detail=WHERE, attempts=1)
    letter = dead_letter(RECORD, cause, topic="inferlane.dead-letters", limit_bytes=1_000)
    read = read_dead_letter(FakeRecord(value=letter.value, headers=tuple(letter.headers)))
    assert (read.original.topic, read.original.partition, read.original.offset) == ("inferlane.requests", 3, 7)
    assert (read.original.value, read.cause.detail) == (b"raw batch", WHERE)
    assert read.cut == "it stands for the batch with the offsets 7 to 9, which could not be read"


def test_a_producer_cannot_write_such_a_record() -> None:
    """The headers of one, as they come back from a topic: plain text, in the place of ours."""
    forged = FakeRecord(headers=tuple((str.__str__(name), value) for name, value in RECORD.headers))
    assert not is_unreadable(forged.headers)
    refuse_unreadable(forged.topic, forged.partition, forged.offset, forged.headers)
    assert read_headers(forged).request_id

"""Delivery: dead letters and results are durable before it returns, each stage tried again by itself."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from msgspec.structs import replace

from inferlane.contracts.dead_letters import Cause, dead_letter
from inferlane.contracts.kafka_record import OutRecord, check_size
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2 import encode_response
from inferlane.errors import (
    InferlaneError,
    NotServedError,
    PayloadTooLargeError,
    TopicMissingError,
    UnavailableError,
)
from inferlane.runtime.delivery import Delivery, Reply
from inferlane.runtime.retry import Retrier
from tests.support.fakes.records import FakeRecord

NAMES = Names()


@dataclass
class FakeStore:
    """Keeps results as the store does; fails as often as told."""

    failures: int = 0
    wake_fails: bool = False
    held: dict[str, Result] = field(default_factory=dict)
    woken: list[tuple[str, list[str]]] = field(default_factory=list)

    async def put(self, results: Sequence[Result], *, wake: Mapping[str, Sequence[Result]]) -> list[Result]:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("the store is down")
        held = [self.held.setdefault(result.request_id, result) for result in results]
        if held == list(results):
            self.woken += [(instance, [result.status.value for result in woken]) for instance, woken in wake.items()]
        return held

    async def wake(self, instance: str, results: Sequence[Result]) -> None:
        if self.wake_fails:
            raise UnavailableError("the store is down")
        self.woken.append((instance, [result.status.value for result in results]))


@dataclass
class FakeProducer:
    """Writes records, but for those that `refuses` has an error for."""

    refuses: Callable[[OutRecord], InferlaneError | None] = lambda _record: None
    sent: list[OutRecord] = field(default_factory=list)

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        outcomes = [self.refuses(record) for record in records]
        self.sent += [record for record, error in zip(records, outcomes, strict=True) if error is None]
        return outcomes


def make_answer(
    *, status: Status = Status.SUCCEEDED, lane: Lane = Lane.REQUESTS, dead: FakeRecord | None = None
) -> Reply:
    code = None if status is Status.SUCCEEDED else "model_error"
    result = Result(request_id="r", status=status, model="iris", version="v1", error_code=code)
    waits = lane is Lane.REQUESTS
    return Reply(
        result=result, lane=lane, reply_to="api-1" if waits else None, batch_id=None, to_topic=not waits, dead=dead
    )


def make_delivery(store: FakeStore, producer: FakeProducer) -> Delivery:
    return Delivery(store, producer, Retrier(), names=Names(), max_dead_letter_bytes=100)  # type: ignore[arg-type]  # fakes of the same shape


async def deliver(store: FakeStore, producer: FakeProducer, *answers: Reply) -> None:
    async with asyncio.timeout(30):
        await make_delivery(store, producer).deliver(answers)


async def test_a_store_that_was_down_gets_the_result_and_the_dead_letter_is_not_multiplied() -> None:
    store, producer = FakeStore(failures=3), FakeProducer()
    await deliver(store, producer, make_answer(status=Status.FAILED, dead=FakeRecord(value=b"x")))
    assert store.held["r"].status is Status.FAILED
    assert [record.topic for record in producer.sent] == [NAMES.dead_letters]


async def test_the_first_terminal_result_is_the_one_that_wakes() -> None:
    store, producer = FakeStore(), FakeProducer()
    await deliver(store, producer, make_answer())
    await deliver(store, producer, make_answer(status=Status.EXPIRED))
    assert store.woken == [("api-1", ["SUCCEEDED"]), ("api-1", ["SUCCEEDED"])]


async def test_a_wake_up_that_fails_does_not_hold_the_commit() -> None:
    store = FakeStore(wake_fails=True)
    await deliver(store, FakeProducer(), make_answer())
    # Another result than ours holds, so the wake-up is a call of its own.
    await deliver(store, FakeProducer(), make_answer(status=Status.EXPIRED))
    assert store.held["r"].status is Status.SUCCEEDED


async def test_a_bulk_result_goes_to_the_topic_alone() -> None:
    store, producer = FakeStore(), FakeProducer()
    await deliver(store, producer, make_answer(lane=Lane.BULK))
    assert ([record.topic for record in producer.sent], store.held) == ([NAMES.results], {})


def too_large(topic: str, limit_bytes: int) -> Callable[[OutRecord], InferlaneError | None]:
    """What a topic with a small limit of its own says."""

    def refuses(record: OutRecord) -> InferlaneError | None:
        if record.topic != topic or check_size(record, 2**40) <= limit_bytes:
            return None
        return PayloadTooLargeError(f"over what {topic} takes, {limit_bytes} bytes", limit_bytes=limit_bytes)

    return refuses


def missing(topic: str) -> Callable[[OutRecord], InferlaneError | None]:
    return lambda record: TopicMissingError(f"the broker has no topic {topic}") if record.topic == topic else None


async def test_a_bulk_result_that_its_topic_finds_too_large_is_a_failure_that_says_so() -> None:
    """Guards `_instead`: without it the same batch is run and refused for ever."""
    store, producer = FakeStore(), FakeProducer(too_large(NAMES.results, 1_000))
    answer = make_answer(lane=Lane.BULK)
    large = replace(answer, result=replace(answer.result, content=b"x" * 5_000), record=FakeRecord(value=b"request"))
    await deliver(store, producer, large, make_answer(lane=Lane.BULK))
    by_topic = {topic: [r for r in producer.sent if r.topic == topic] for topic in (NAMES.results, NAMES.dead_letters)}
    told = [dict(record.headers) for record in by_topic[NAMES.results]]
    assert sorted(headers["ce_status"] for headers in told) == [b"FAILED", b"SUCCEEDED"]
    (failed,) = (headers for headers in told if headers["ce_status"] == b"FAILED")
    assert failed["ce_errorcode"] == b"payload_too_large"
    assert b"1000 bytes" in failed["ce_errordetail"]
    assert [letter.value for letter in by_topic[NAMES.dead_letters]] == [b"request"]


async def test_a_stored_result_that_its_topic_finds_too_large_is_said_to_be_in_the_store() -> None:
    store, producer = FakeStore(), FakeProducer(too_large(NAMES.results, 1_000))
    answer = make_answer()
    large = replace(answer, result=replace(answer.result, content=b"x" * 5_000), to_topic=True)
    await deliver(store, producer, large)
    assert store.held["r"].content == b"x" * 5_000
    (record,) = producer.sent
    headers = dict(record.headers)
    # Never another end than the one that is stored.
    assert (headers["ce_status"], record.value) == (b"SUCCEEDED", b"")
    assert b"/v1/predictions/r" in headers["ce_errordetail"]


@pytest.mark.parametrize("limit_bytes", [1_000, 700])
async def test_a_dead_letter_that_its_topic_finds_too_large_is_cut_to_it(limit_bytes: int) -> None:
    """Guards `_cut_to` and `_cut_to_reference`: without them such a record has no result, ever."""
    store, producer = FakeStore(), FakeProducer(too_large(NAMES.dead_letters, limit_bytes))
    dead = FakeRecord(value=b"v" * 90, headers=(("ce_id", b"r"), ("big", b"h" * 200)))
    await deliver(store, producer, make_answer(status=Status.FAILED, dead=dead))
    (letter,) = producer.sent
    assert check_size(letter, limit_bytes) <= limit_bytes
    headers = dict(letter.headers)
    assert (headers["ce_id"], headers["inferlane-dead-letter-offset"]) == (b"r", b"7")
    assert store.held["r"].status is Status.FAILED


async def test_a_record_is_answered_although_the_topic_of_dead_letters_is_gone() -> None:
    store, producer = FakeStore(), FakeProducer(missing(NAMES.dead_letters))
    await deliver(store, producer, make_answer(status=Status.FAILED, dead=FakeRecord(value=b"x")))
    detail = store.held["r"].error_detail or ""
    assert "no dead letter" in detail
    assert "-7" in detail
    assert producer.sent == []


async def test_a_request_is_answered_although_the_topic_of_results_is_gone() -> None:
    store, producer = FakeStore(), FakeProducer(missing(NAMES.results))
    await deliver(store, producer, replace(make_answer(), to_topic=True))
    assert store.held["r"].status is Status.SUCCEEDED


async def test_a_bulk_result_waits_for_its_topic() -> None:
    """It has no other place: given up, it would be lost."""
    producer = FakeProducer(missing(NAMES.results))
    delivering = asyncio.create_task(deliver(FakeStore(), producer, make_answer(lane=Lane.BULK)))
    done, _ = await asyncio.wait({delivering}, timeout=0.2)
    assert not done
    producer.refuses = lambda _record: None
    await delivering
    assert [record.topic for record in producer.sent] == [NAMES.results]


async def test_an_error_that_no_retry_mends_is_not_retried() -> None:
    denied = FakeProducer(lambda _record: NotServedError("the broker does not serve us"))
    with pytest.raises(NotServedError):
        await deliver(FakeStore(), denied, make_answer(lane=Lane.BULK))


def test_a_dead_letter_keeps_the_record_and_says_where_it_was_and_why() -> None:
    record = FakeRecord(key=b"k", value=b"v", headers=(("ce_id", b"r"), ("inferlane-dead-letter-reason", b"older")))
    letter = dead_letter(record, Cause(reason="undecodable", detail="d", attempts=2), topic="dead", limit_bytes=10)
    headers = dict(letter.headers)
    reason = headers["inferlane-dead-letter-reason"]
    assert (letter.key, letter.value, headers["ce_id"], reason) == (b"k", b"v", b"r", b"undecodable")
    assert (headers["inferlane-dead-letter-offset"], headers["inferlane-dead-letter-attempts"]) == (b"7", b"2")


def test_a_dead_letter_over_the_limit_is_cut_and_tells_its_length() -> None:
    letter = dead_letter(
        FakeRecord(value=b"v" * 50), Cause(reason="r", detail="", attempts=1), topic="dead", limit_bytes=10
    )
    assert (letter.value, dict(letter.headers)["inferlane-dead-letter-value-bytes"]) == (b"v" * 10, b"50")


def test_headers_that_leave_no_room_are_dropped_but_for_the_id() -> None:
    record = FakeRecord(headers=(("ce_id", b"r"), ("big", b"x" * 100_000)))
    headers = dict(dead_letter(record, Cause(reason="r", detail="", attempts=1), topic="dead", limit_bytes=10).headers)
    assert (headers.get("ce_id"), headers.get("big")) == (b"r", None)


def test_a_record_is_measured_with_its_headers() -> None:
    check_size(OutRecord("t", b"k", b"v" * 100, []), 1_000)
    with pytest.raises(PayloadTooLargeError, match="the limit is 1000"):
        check_size(OutRecord("t", b"k", b"v" * 100, [("h", b"x" * 900)]), 1_000)


def with_callback(reply: Reply, url: str = "https://example.com/hook") -> Reply:
    return replace(reply, callback_url=url)


async def test_a_callback_has_the_result_that_holds_and_is_written_before_the_commit() -> None:
    store, producer = FakeStore(), FakeProducer()
    await deliver(store, producer, make_answer(status=Status.FAILED))
    await deliver(store, producer, with_callback(make_answer(status=Status.EXPIRED)), make_answer())
    (callback,) = [record for record in producer.sent if record.topic == NAMES.callbacks]
    assert json.loads(callback.value)["type"] == "prediction.failed"
    assert dict(callback.headers)["ce_callbackurl"] == b"https://example.com/hook"


async def test_a_callback_that_its_topic_finds_too_large_leaves_the_predictions_out() -> None:
    content, _ = encode_response({"label": np.zeros(5_000)}, model="iris", version="v1", request_id="r")
    store, producer = FakeStore(), FakeProducer(too_large(NAMES.callbacks, 2_000))
    answer = with_callback(make_answer())
    await deliver(store, producer, replace(answer, result=replace(answer.result, content=content)))
    (callback,) = [record for record in producer.sent if record.topic == NAMES.callbacks]
    body = json.loads(callback.value)
    assert body["type"] == "prediction.succeeded"
    assert "predictions" not in body["data"]
    assert body["data"]["error"]["code"] == "payload_too_large"


async def test_a_callback_whose_topic_is_missing_is_a_dead_letter_and_holds_nobody_up() -> None:
    store, producer = FakeStore(), FakeProducer(missing(NAMES.callbacks))
    await deliver(store, producer, with_callback(make_answer(status=Status.FAILED)), make_answer())
    (letter,) = [record for record in producer.sent if record.topic == NAMES.dead_letters]
    assert dict(letter.headers)["inferlane-dead-letter-reason"] == TopicMissingError.code.encode()
    assert dict(letter.headers)["inferlane-dead-letter-topic"] == NAMES.callbacks.encode()
    assert store.held["r"].status is Status.FAILED


async def test_a_bulk_result_that_failed_at_its_topic_is_told_so_to_its_callback() -> None:
    store, producer = FakeStore(), FakeProducer(too_large(NAMES.results, 1_000))
    answer = with_callback(make_answer(lane=Lane.BULK))
    large = replace(answer, result=replace(answer.result, content=b"x" * 5_000), record=FakeRecord(value=b"request"))
    await deliver(store, producer, large)
    (callback,) = [record for record in producer.sent if record.topic == NAMES.callbacks]
    assert json.loads(callback.value)["type"] == "prediction.failed"

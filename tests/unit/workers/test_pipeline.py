"""What a worker does with a fetched batch: which requests are inferred, and that each gets a reply."""

import asyncio
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.kafka_record import OutRecord, format_time
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import read_headers
from inferlane.contracts.results import Result, Status
from inferlane.contracts.shadow import Disagreement, ShadowCounts, answer_of
from inferlane.contracts.wire.v2 import decode_response
from inferlane.errors import InferlaneError, ModelError, TopicMissingError, UnavailableError
from inferlane.runtime.delivery import Reply
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.kafka.offsets import Ticket
from inferlane.runtime.retry import Retrier
from inferlane.runtime.service_settings import FeedbackSettings, WorkerSettings
from inferlane.runtime.settings import KafkaSettings
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import FakeRecord, make_version
from workers.batching import Batch
from workers.fallback_writer import FallbackWriter
from workers.pipeline import Pipeline
from workers.requests import Request
from workers.shadow_copies import ShadowCopies

BODY = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'
TWO_ROWS = b'{"instances": [[1, 1, 1, 1], [1, 1, 1, 1]]}'


class FakeModel:
    """Infers any rows and remembers how many it was given; unlike a session it cannot fail."""

    version = make_version()

    def __init__(self, outputs: Mapping[str, object] | None = None) -> None:
        self.rows: list[int] = []
        self._outputs = outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
        rows = len(inputs["input"])
        self.rows.append(rows)
        return self._outputs or {
            "label": np.zeros(rows, np.int64),
            "probabilities": np.full((rows, 3), 1 / 3, np.float32),
        }


@dataclass
class FakeDelivery:
    answers: list[Reply] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    async def deliver(self, answers: Sequence[Reply]) -> None:
        self.answers.extend(answers)
        self.sizes.append(len(answers))

    def status_of(self, request_id: str) -> tuple[Status, str | None]:
        (found,) = [answer.result for answer in self.answers if answer.result.request_id == request_id]
        return found.status, found.error_code


class FakeTelemetry:
    """Counts nothing."""

    def observe_fetched(self, records: Sequence[FakeRecord], lane: Lane, *, now_s: float) -> None: ...

    def observe(self, batch: Batch, replies: Sequence[Reply], *, now_s: float) -> None: ...


@dataclass
class FakeProducer:
    """Writes records, or refuses all of them with an error."""

    refusal: InferlaneError | None = None
    sent: list[OutRecord] = field(default_factory=list)

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        if self.refusal is None:
            self.sent += records
        return [self.refusal] * len(records)


@dataclass
class FakeShadowResults:
    added: list[tuple[str, ShadowCounts]] = field(default_factory=list)

    async def add(
        self, _model: str, _version: str, run: str, counts: ShadowCounts, _rows: Sequence[Disagreement]
    ) -> None:
        self.added.append((run, counts))


def make_record(
    request_id: str, *, deadline_s: float | None = None, value: bytes = BODY, fallback: str | None = None
) -> FakeRecord:
    headers = [
        ("ce_id", request_id.encode()),
        ("ce_replyto", b"api"),
        ("ce_model", b"iris"),
        ("ce_modelversion", b"v2"),
    ]
    if deadline_s is not None:
        headers.append(("ce_deadline", format_time(deadline_s)))
    if fallback is not None:
        headers.append(("ce_fallback", fallback.encode()))
    return FakeRecord(value=value, headers=tuple(headers))


def make_shadows(
    model: FakeModel,
    producer: FakeProducer | None = None,
    results: FakeShadowResults | None = None,
    clock: FakeClock | None = None,
) -> ShadowCopies:
    return ShadowCopies(
        model.version,
        producer or FakeProducer(),
        results or FakeShadowResults(),  # type: ignore[arg-type]  # as above
        names=Names(),
        clock=clock or FakeClock(),
    )


def make_pipeline(  # noqa: PLR0913 - what a test may want of its own
    model: FakeModel,
    delivery: FakeDelivery,
    *,
    cancelled: Collection[str] = (),
    clock: FakeClock | None = None,
    producer: FakeProducer | None = None,
    shadows: ShadowCopies | None = None,
    max_batch_rows: int,
) -> Pipeline:
    return Pipeline(
        WorkerSettings(max_batch_rows=max_batch_rows),
        FeedbackSettings(),
        KafkaSettings(),
        Names(),
        model=model,  # type: ignore[arg-type]  # fakes of the same shape
        delivery=delivery,  # type: ignore[arg-type]  # as above
        telemetry=FakeTelemetry(),  # type: ignore[arg-type]  # as above
        fallbacks=FallbackWriter(producer or FakeProducer(), Retrier(), model="iris", version="v1"),
        shadows=shadows or make_shadows(model),
        cancelled=cancelled,
        clock=clock or FakeClock(),
    )


async def answer(  # noqa: PLR0913 - as above
    *records: FakeRecord,
    model: FakeModel,
    lane: Lane = Lane.REQUESTS,
    cancelled: Collection[str] = (),
    clock: FakeClock | None = None,
    producer: FakeProducer | None = None,
    shadow_results: FakeShadowResults | None = None,
    max_batch_rows: int = 256,
) -> FakeDelivery:
    delivery = FakeDelivery()
    shadows = make_shadows(model, producer, shadow_results, clock)
    pipeline = make_pipeline(
        model,
        delivery,
        cancelled=cancelled,
        clock=clock,
        producer=producer,
        shadows=shadows,
        max_batch_rows=max_batch_rows,
    )
    async with asyncio.timeout(30):
        await pipeline.serve(FetchedBatch(records, Ticket({})), lane)  # type: ignore[arg-type]  # as above
    await shadows.close()
    pipeline.close()
    return delivery


async def test_a_cancelled_request_is_answered_and_its_rows_are_not_computed() -> None:
    """Guards `Pipeline._reply_early`'s check of `cancelled`: without it, the model gets two rows."""
    model = FakeModel()
    delivery = await answer(
        make_record("a"), make_record("b"), model=model, cancelled={read_headers(make_record("a")).key}
    )
    assert model.rows == [1]
    assert delivery.status_of("a") == (Status.FAILED, "cancelled")
    assert delivery.status_of("b") == (Status.SUCCEEDED, None)


async def test_a_request_past_its_deadline_is_answered_and_its_rows_are_not_computed() -> None:
    """Guards `Pipeline._reply_early`'s check of the deadline: without it, the model gets two rows."""
    clock, model = FakeClock(), FakeModel()
    late = make_record("late", deadline_s=clock.now_s() - 1)
    delivery = await answer(late, make_record("due", deadline_s=clock.now_s() + 1), model=model, clock=clock)
    assert model.rows == [1]
    assert delivery.status_of("late")[0] is Status.EXPIRED
    assert delivery.status_of("due")[0] is Status.SUCCEEDED


async def test_a_batch_of_nothing_but_late_requests_runs_no_model() -> None:
    clock, model = FakeClock(), FakeModel()
    await answer(make_record("late", deadline_s=clock.now_s() - 1), model=model, clock=clock)
    assert model.rows == []


async def test_outputs_that_cannot_be_encoded_end_their_request_and_not_the_worker() -> None:
    """Guards the `except` of `_reply`: without it, `serve` raises, the process ends and fetches the record again."""
    model = FakeModel({"label": np.array([object()]), "probabilities": np.zeros((1, 3), np.float32)})
    delivery = await answer(make_record("a"), model=model)
    assert delivery.status_of("a") == (Status.FAILED, "model_error")


@pytest.mark.parametrize("value", [b"", b"\xff", b'{"instances": 1}', b'{"instances": [[1]]}', b"[]", b"{}"])
async def test_a_record_that_cannot_be_read_is_answered_beside_one_that_can(value: bytes) -> None:
    model = FakeModel()
    delivery = await answer(make_record("bad", value=value), make_record("good"), model=model)
    assert delivery.status_of("bad")[0] is Status.FAILED
    assert delivery.status_of("good")[0] is Status.SUCCEEDED
    assert [found.result.request_id for found in delivery.answers if found.dead is not None] == ["bad"]


async def test_bulk_results_of_a_take_are_delivered_together_and_those_of_clients_run_by_run() -> None:
    """Guards the lane's part in `serve`: without it, bulk pays a round trip per run, or a client waits for all runs."""
    records = [make_record("a"), make_record("b"), make_record("c")]
    for lane, sizes in ((Lane.BULK, [3]), (Lane.REQUESTS, [1, 1, 1])):
        model = FakeModel()
        delivery = await answer(*records, model=model, lane=lane, max_batch_rows=1)
        assert model.rows == [1, 1, 1]
        assert delivery.sizes == sizes
        assert [found.result.request_id for found in delivery.answers] == ["a", "b", "c"]


async def test_bulk_records_are_decoded_a_few_a_turn_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `_BULK_RECORDS_A_TURN`: a client's request would wait until all of a large bulk batch is decoded."""
    decoded = 0

    def counted(*arguments: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return read_headers(*arguments)

    monkeypatch.setattr("workers.request_reader.read_headers", counted)
    work = asyncio.create_task(answer(*map(make_record, map(str, range(64))), model=FakeModel(), lane=Lane.BULK))
    seen = [0]
    while seen[-1] < 64:
        await asyncio.sleep(0)
        seen.append(decoded)
    assert len((await work).answers) == 64
    assert max(after - before for before, after in pairwise(seen)) <= 8


async def test_the_next_bulk_batch_runs_before_the_replies_of_the_one_before_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards `_TURNS_TO_HAND_OVER`: without it, the model is idle while replies are made."""
    events: list[str] = []
    pipeline = make_pipeline(FakeModel(), FakeDelivery(), max_batch_rows=256)
    run, of_inferred = pipeline._runner.run, pipeline._replies.of_inferred

    async def noted_run(batches: Sequence[Sequence[Request]]) -> Any:
        events.append(f"run {batches[0][0].headers.request_id}")
        return await run(batches)

    def noted_reply(inferred: Any, times: Any) -> Reply:
        events.append(f"reply {inferred.request.headers.request_id}")
        return of_inferred(inferred, times)

    monkeypatch.setattr(pipeline._runner, "run", noted_run)
    monkeypatch.setattr(pipeline._replies, "of_inferred", noted_reply)
    async with asyncio.timeout(30), asyncio.TaskGroup() as both:
        for name in "ab":
            fetched = FetchedBatch([make_record(name)], Ticket({}))  # type: ignore[list-item]  # as above
            both.create_task(pipeline.serve(fetched, Lane.BULK))
    pipeline.close()
    assert events == ["run a", "run b", "reply a", "reply b"]


async def test_large_bulk_results_are_not_held_back_for_the_rest_of_the_take() -> None:
    """Guards `HELD_BYTES`: without it, one produce holds all results and may exceed the request timeout."""
    model = FakeModel({"label": np.zeros(1, np.int64), "probabilities": np.zeros((1, 400_000), np.float32)})
    records = [make_record("a"), make_record("b")]
    delivery = await answer(*records, model=model, lane=Lane.BULK, max_batch_rows=1)
    assert delivery.sizes == [1, 1]


async def test_bulk_records_with_a_deadline_are_looked_at_when_it_is_their_turn() -> None:
    """Guards `_in_a_row`: without it, a record that expires during the run before is inferred."""
    clock = FakeClock()

    class Model(FakeModel):
        def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            clock.advance(10)
            return super().run(inputs)

    model = Model()
    records = [make_record("a"), make_record("b", deadline_s=clock.now_s() + 5)]
    delivery = await answer(*records, model=model, lane=Lane.BULK, clock=clock, max_batch_rows=1)
    assert model.rows == [1]
    assert delivery.status_of("b")[0] is Status.EXPIRED


async def test_bulk_runs_in_a_row_end_where_a_client_waits() -> None:
    """Guards `has_waiting_client`: without it, a client waits for all runs of bulk instead of one."""
    pipeline: Pipeline
    waiting: list[asyncio.Task[None]] = []
    served: list[str] = []

    class Model(FakeModel):
        def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            served.append("bulk" if len(inputs["input"]) == 2 else "client")
            if served == ["bulk"]:
                # A client comes while the first bulk run is in the thread.
                come = asyncio.run_coroutine_threadsafe(queue(), loop)
                come.result(30)
            return super().run(inputs)

    async def queue() -> None:
        take = FetchedBatch([make_record("client")], Ticket({}))  # type: ignore[arg-type, list-item]  # a fake of the same shape
        waiting.append(asyncio.create_task(pipeline.serve(take, Lane.REQUESTS)))
        await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    pipeline = make_pipeline(Model(), FakeDelivery(), max_batch_rows=2)
    records = [make_record(name, value=TWO_ROWS) for name in "abc"]
    async with asyncio.timeout(30):
        await pipeline.serve(FetchedBatch(records, Ticket({})), Lane.BULK)  # type: ignore[arg-type]  # as above
        await asyncio.gather(*waiting)
    pipeline.close()
    assert served == ["bulk", "client", "bulk", "bulk"]


class RowSums(FakeModel):
    """Gives each row an output made of its own numbers, so that a row in the wrong place shows."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
        super().run(inputs)
        sums = inputs["input"].sum(axis=1)
        return {"label": sums.astype(np.int64), "probabilities": np.stack([sums, sums, sums], axis=1)}


def rows_record(request_id: str, rows: int, **more: float) -> FakeRecord:
    body = msgspec.json.encode({"instances": [[float(row), 0, 0, 0] for row in range(rows)]})
    return make_record(request_id, value=body, **more)


@pytest.mark.parametrize("lane", Lane)
async def test_a_request_larger_than_a_batch_is_run_in_pieces_and_answered_whole(lane: Lane) -> None:
    """Guards `_infer_in_pieces`: without it, memory and time of one run have no limit."""
    model = RowSums()
    records = [rows_record("a", 1), rows_record("large", 23), rows_record("b", 2)]
    delivery = await answer(*records, model=model, lane=lane, max_batch_rows=5)
    assert model.rows == [1, 5, 5, 5, 5, 3, 2]
    results = {found.result.request_id: found.result for found in delivery.answers}
    assert [found.result.request_id for found in delivery.answers] == ["a", "large", "b"]
    outputs = decode_response(results["large"].content, results["large"].json_length)
    assert outputs["label"].tolist() == list(range(23))
    assert results["large"].rows == 23


async def test_a_large_request_ends_at_the_piece_that_fails_and_nobody_else_does() -> None:
    class Failing(RowSums):
        def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            outputs = super().run(inputs)
            if (inputs["input"][:, 0] == 12).any():
                raise ModelError("a dozen")
            return outputs

    model = Failing()
    delivery = await answer(rows_record("large", 23), rows_record("b", 2), model=model, max_batch_rows=5)
    assert model.rows == [5, 5, 5, 2]
    assert delivery.status_of("large") == (Status.FAILED, "model_error")
    assert delivery.status_of("b") == (Status.SUCCEEDED, None)


async def test_a_large_request_is_not_run_to_its_end_past_its_deadline() -> None:
    clock = FakeClock()

    class Slow(RowSums):
        def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            clock.advance(1)
            return super().run(inputs)

    model = Slow()
    large = rows_record("large", 23, deadline_s=clock.now_s() + 1.5)
    delivery = await answer(large, model=model, clock=clock, max_batch_rows=5)
    assert model.rows == [5, 5]
    assert delivery.status_of("large")[0] is Status.EXPIRED


async def test_pieces_whose_outputs_do_not_fit_together_fail_their_request() -> None:
    class Uneven(FakeModel):
        def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            rows = len(inputs["input"])
            super().run(inputs)
            return {"label": np.zeros(rows, np.int64), "probabilities": np.zeros((rows, rows), np.float32)}

    delivery = await answer(rows_record("large", 3), model=Uneven(), max_batch_rows=2)
    assert delivery.status_of("large") == (Status.FAILED, "model_error")


async def test_a_client_has_its_turn_between_two_pieces_of_a_large_bulk_request() -> None:
    """Guards the turn per piece: in one turn for all pieces, a client waits for every run of the record."""
    pipeline: Pipeline
    waiting: list[asyncio.Task[None]] = []
    rows: list[int] = []

    class Model(FakeModel):
        def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            rows.append(len(inputs["input"]))
            if len(rows) == 1:
                asyncio.run_coroutine_threadsafe(come(), loop).result(30)
            return super().run(inputs)

    async def come() -> None:
        take = FetchedBatch([make_record("client")], Ticket({}))  # type: ignore[arg-type, list-item]  # a fake of the same shape
        waiting.append(asyncio.create_task(pipeline.serve(take, Lane.REQUESTS)))
        await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    pipeline = make_pipeline(Model(), FakeDelivery(), max_batch_rows=2)
    async with asyncio.timeout(30):
        large = FetchedBatch([rows_record("large", 8)], Ticket({}))  # type: ignore[arg-type, list-item]  # as above
        await pipeline.serve(large, Lane.BULK)
        await asyncio.gather(*waiting)
    pipeline.close()
    assert rows == [2, 1, 2, 2, 2]


async def test_what_this_version_fails_goes_to_its_fallback_and_not_to_the_client() -> None:
    """Guards `fallback_record` in `of_error`: without it, the client of a trial sees the failure."""
    clock, producer = FakeClock(), FakeProducer()

    class Failing(FakeModel):
        def run(self, _inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            raise ModelError("always")

    deadline_s = clock.now_s() + 60
    shielded = make_record("a", deadline_s=deadline_s, fallback="v1")
    delivery = await answer(shielded, make_record("b"), model=Failing(), clock=clock, producer=producer)
    assert [reply.result.request_id for reply in delivery.answers] == ["b"]
    (sent,) = producer.sent
    assert (sent.topic, sent.value) == ("inferlane.iris.v1.requests", BODY)
    headers = dict(sent.headers)
    assert (headers["ce_id"], headers["ce_modelversion"], headers["ce_attempt"]) == (b"a", b"v1", b"2")
    assert headers["ce_deadline"] == format_time(deadline_s)
    assert (headers["ce_fallbackfrom"], "ce_fallback" in headers) == (b"v2", False)


@pytest.mark.parametrize("value", [b"not json", BODY])
async def test_inputs_and_outputs_that_only_this_version_refuses_have_their_fallback_too(value: bytes) -> None:
    producer = FakeProducer()
    model = FakeModel({"label": np.array([object()]), "probabilities": np.zeros((1, 3), np.float32)})
    delivery = await answer(make_record("a", value=value, fallback="v1"), model=model, producer=producer)
    assert (len(producer.sent), delivery.answers) == (1, [])


async def test_a_request_that_waited_half_its_time_is_not_inferred_but_handed_over() -> None:
    """Guards `is_overdue`: without it, a slow version under trial uses up the time in which the other could answer."""
    clock, producer, model = FakeClock(), FakeProducer(), FakeModel()
    now_s = clock.now_s()

    def waited(request_id: str, waited_s: float) -> FakeRecord:
        made = make_record(request_id, deadline_s=now_s + 60 - waited_s, fallback="v1")
        return dataclasses.replace(made, headers=(*made.headers, ("ce_time", format_time(now_s - waited_s))))

    delivery = await answer(waited("late", 31), waited("due", 29), model=model, clock=clock, producer=producer)
    assert [dict(sent.headers)["ce_id"] for sent in producer.sent] == [b"late"]
    assert model.rows == [1]
    assert [reply.result.request_id for reply in delivery.answers] == ["due"]


async def test_a_failure_without_time_left_or_whose_fallback_is_refused_ends_here() -> None:
    """Without it, a request whose fallback has no topic has no result at all."""
    clock = FakeClock()

    class Slow(FakeModel):
        def run(self, _inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            clock.advance(10)
            raise ModelError("late")

    late = make_record("late", deadline_s=clock.now_s() + 5, fallback="v1")
    producer = FakeProducer()
    delivery = await answer(late, model=Slow(), clock=clock, producer=producer)
    assert (producer.sent, delivery.status_of("late")) == ([], (Status.FAILED, "model_error"))
    refusing = FakeProducer(TopicMissingError("no topic"))
    delivery = await answer(make_record("a", fallback="v1"), model=Slow(), producer=refusing)
    (reply,) = delivery.answers
    assert (reply.result.status, reply.dead is not None) == (Status.FAILED, True)
    assert "no topic" in (reply.result.error_detail or "")


async def test_a_copy_of_an_answered_request_carries_the_answer_and_nothing_of_its_client() -> None:
    clock, producer = FakeClock(), FakeProducer()
    marked = make_record("a", deadline_s=clock.now_s() + 60)
    more = (("ce_shadow", b"v2"), ("ce_proof", b"x"), ("ce_batchid", b"b"), ("ce_fallback", b"v0"))
    marked = dataclasses.replace(marked, headers=(*marked.headers, *more))
    delivery = await answer(marked, make_record("b"), model=FakeModel(), clock=clock, producer=producer)
    assert {reply.result.request_id for reply in delivery.answers} == {"a", "b"}
    (copy,) = producer.sent
    assert (copy.topic, copy.value) == ("inferlane.iris.v2.bulk", BODY)
    headers = dict(copy.headers)
    assert not headers.keys() & {"ce_replyto", "ce_proof", "ce_batchid", "ce_fallback", "ce_shadow"}
    assert headers["ce_deadline"] == format_time(clock.now_s() + 60)
    assert headers["ce_source"] == b"inferlane-shadow"
    found = answer_of(FakeRecord(headers=tuple(copy.headers)))
    assert found is not None
    assert found.labels == ("setosa",)
    assert found.outputs["label"].tolist() == [0]


async def test_no_result_of_a_copy_is_delivered_whatever_becomes_of_it() -> None:
    """Guards `Reply.is_copy`: without it, a copy that fails is somebody's result and a dead letter."""
    clock, producer, results = FakeClock(), FakeProducer(), FakeShadowResults()
    await answer(
        dataclasses.replace(make_record("a"), headers=(*make_record("a").headers, ("ce_shadow", b"v2"))),
        model=FakeModel(),
        clock=clock,
        producer=producer,
    )
    (copy,) = producer.sent

    def copied(value: bytes = BODY, *more: tuple[str, bytes]) -> FakeRecord:
        return FakeRecord(value=value, headers=(*copy.headers, *more))

    late = tuple(header for header in copy.headers if header[0] != "ce_deadline")
    late = (*late, ("ce_deadline", format_time(clock.now_s() - 1)))
    delivery = await answer(
        copied(),
        copied(b"unreadable"),
        # A header that cannot be read, so that only its defaults are known.
        copied(BODY, ("ce_attempt", b"none")),
        FakeRecord(value=BODY, headers=late),
        make_record("real"),
        model=FakeModel(),
        lane=Lane.BULK,
        clock=clock,
        shadow_results=results,
    )
    assert [reply.result.request_id for reply in delivery.answers] == ["real"]
    counts = [counts for _, counts in results.added]
    assert {run for run, _ in results.added} == {"manual"}
    assert (sum(one.copies for one in counts), sum(one.failed for one in counts)) == (3, 1)
    assert (sum(one.compared for one in counts), sum(one.agreed for one in counts)) == (1, 1)
    assert sum(one.expired for one in counts) == 1


def marked(record: FakeRecord, shadow: str = "v2") -> FakeRecord:
    return dataclasses.replace(record, headers=(*record.headers, ("ce_shadow", shadow.encode())))


async def copies_of(*ids: str, value: bytes = BODY) -> list[FakeRecord]:
    """Copies as the worker of another version sends them."""
    producer = FakeProducer()
    records = [marked(make_record(request_id, value=value)) for request_id in ids]
    await answer(*records, model=FakeModel(), producer=producer)
    return [FakeRecord(value=copy.value, headers=tuple(copy.headers)) for copy in producer.sent]


class Picky(FakeModel):
    """Fails a batch with a negative number."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
        if (inputs["input"] < 0).any():
            raise ModelError("negative")
        return super().run(inputs)


BODIES = st.sampled_from([BODY, TWO_ROWS, b'{"instances": [[-1, 1, 1, 1]]}', b"unreadable"])


@given(
    st.lists(st.tuples(BODIES, st.booleans(), st.sampled_from([None, -1.0, 0.2, 60.0])), min_size=1, max_size=8),
    st.sampled_from([None, TopicMissingError("gone"), UnavailableError("away")]),
    st.sampled_from(list(Lane)),
)
def test_a_copy_never_changes_the_result_of_its_original(
    requests: list[tuple[bytes, bool, float | None]], refusal: InferlaneError | None, lane: Lane
) -> None:
    """Whatever is marked, and whatever becomes of the copies, the replies are those without any mark."""

    async def results_of(*, with_copies: bool) -> list[Result]:
        clock = FakeClock()
        records = []
        for number, (body, is_marked, left_s) in enumerate(requests):
            deadline_s = None if left_s is None else clock.now_s() + left_s
            record = make_record(str(number), value=body, deadline_s=deadline_s)
            records.append(marked(record) if is_marked and with_copies else record)
        delivery = await answer(*records, model=Picky(), lane=lane, clock=clock, producer=FakeProducer(refusal))
        return [reply.result for reply in delivery.answers]

    assert asyncio.run(results_of(with_copies=True)) == asyncio.run(results_of(with_copies=False))


async def test_copies_of_one_fetch_are_kept_in_one_write_however_many_runs_they_take() -> None:
    results = FakeShadowResults()
    copies = await copies_of(*"abcdefg")
    await answer(*copies, model=FakeModel(), lane=Lane.BULK, shadow_results=results, max_batch_rows=2)
    (kept,) = results.added
    assert (kept[0], kept[1].copies, kept[1].compared, kept[1].agreed) == ("manual", 7, 7, 7)

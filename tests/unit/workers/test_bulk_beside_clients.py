"""Bulk beside clients: long runs are cut while a client was here a moment ago, and only then."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.naming import Lane
from inferlane.contracts.wire.v2 import decode_response
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.kafka.offsets import Ticket
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import FakeRecord
from tests.unit.workers.test_pipeline import FakeDelivery, FakeModel, make_pipeline, make_record
from workers.lane_scheduler import LaneScheduler
from workers.pipeline import Pipeline

SLOW_CPU_S, FAST_CPU_S = 0.003, 0.0


class TimedModel(FakeModel):
    """Takes so much CPU time a run, and labels each row with its first number."""

    def __init__(self, cpu_s: float) -> None:
        super().__init__()
        self._cpu_s = cpu_s

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
        until_s = time.thread_time() + self._cpu_s
        while time.thread_time() < until_s:
            pass
        return {**super().run(inputs), "label": inputs["input"][:, 0].astype(np.int64)}


def rows_record(request_id: str, rows: int) -> FakeRecord:
    body = msgspec.json.encode({"instances": [[float(row), 0, 0, 0] for row in range(rows)]})
    return make_record(request_id, value=body)


async def serve(pipeline: Pipeline, lane: Lane, *records: FakeRecord) -> None:
    async with asyncio.timeout(30):
        await pipeline.serve(FetchedBatch(records, Ticket({})), lane)  # type: ignore[arg-type]  # a fake of the same shape


def labels_of(delivery: FakeDelivery, request_id: str) -> Sequence[int]:
    (result,) = [reply.result for reply in delivery.answers if reply.result.request_id == request_id]
    labels: list[int] = decode_response(result.content, result.json_length)["label"].tolist()
    return labels


@given(st.lists(st.tuples(st.sampled_from(Lane), st.floats(0, 3)), max_size=20))
def test_clients_are_about_for_a_second_after_the_last_turn_of_theirs(turns: Sequence[tuple[Lane, float]]) -> None:
    clock = FakeClock(0)

    async def take_turns() -> None:
        scheduler = LaneScheduler(bulk_share=0.2, clock=clock)
        assert not scheduler.has_clients_about
        last_s = -np.inf
        for lane, pause_s in turns:
            async with scheduler.turn(lane):
                pass
            last_s = clock.monotonic_s() if lane is Lane.REQUESTS else last_s
            clock.advance(pause_s)
            assert scheduler.has_clients_about is bool(clock.monotonic_s() - last_s < 1)

    asyncio.run(take_turns())


@pytest.mark.parametrize(
    ("cpu_s", "rows_of_runs"),
    [pytest.param(SLOW_CPU_S, [2, 2, 2, 2], id="slow"), pytest.param(FAST_CPU_S, [8], id="fast")],
)
async def test_long_bulk_runs_are_cut_to_a_quarter_while_clients_are_about(
    cpu_s: float, rows_of_runs: Sequence[int]
) -> None:
    """Guards the lane's part in `most_rows`: without it, a client waits for a whole bulk run."""
    model, delivery = TimedModel(cpu_s), FakeDelivery()
    pipeline = make_pipeline(model, delivery, max_batch_rows=8)
    await serve(pipeline, Lane.BULK, make_record("before"))
    await serve(pipeline, Lane.REQUESTS, make_record("client"))
    await serve(pipeline, Lane.BULK, rows_record("bulk", 8))
    pipeline.close()
    assert model.rows == [1, 1, *rows_of_runs]
    assert labels_of(delivery, "bulk") == list(range(8))


async def test_bulk_runs_are_whole_where_no_client_is_about() -> None:
    """Guards `has_clients_about`: without it, a job is cut although nobody waits for anything."""
    clock, model, delivery = FakeClock(), TimedModel(SLOW_CPU_S), FakeDelivery()
    pipeline = make_pipeline(model, delivery, clock=clock, max_batch_rows=8)
    await serve(pipeline, Lane.BULK, rows_record("first", 8))
    await serve(pipeline, Lane.REQUESTS, rows_record("client", 8))
    clock.advance(1)
    await serve(pipeline, Lane.BULK, rows_record("later", 8))
    pipeline.close()
    assert model.rows == [8, 8, 8]


async def test_what_is_left_of_a_bulk_batch_is_cut_when_a_client_comes() -> None:
    """Guards the second cut in `serve`: without it, a client waits for whole runs until the fetched batch is done."""
    pipeline: Pipeline
    waiting: list[asyncio.Task[None]] = []

    class Model(TimedModel):
        def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, object]:
            if not self.rows:
                asyncio.run_coroutine_threadsafe(come(), loop).result(30)
            return super().run(inputs)

    async def come() -> None:
        waiting.append(asyncio.create_task(serve(pipeline, Lane.REQUESTS, make_record("client"))))
        await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    model, delivery = Model(SLOW_CPU_S), FakeDelivery()
    pipeline = make_pipeline(model, delivery, max_batch_rows=8)
    await serve(pipeline, Lane.BULK, rows_record("a", 8), rows_record("b", 8), rows_record("c", 4))
    await asyncio.gather(*waiting)
    pipeline.close()
    assert model.rows == [8, 1, 2, 2, 2, 2, 2, 2]
    for request_id, rows in (("a", 8), ("b", 8), ("c", 4)):
        assert labels_of(delivery, request_id) == list(range(rows))

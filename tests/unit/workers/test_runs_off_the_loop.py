"""Where a run happens: a short one on the event loop, unless a step of the version may take long for a single row."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import default_headers
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.runtime.retry import SystemClock
from tests.support.fakes.records import FakeRecord
from workers import model as model_module
from workers.lane_scheduler import LaneScheduler
from workers.model import BatchRunner
from workers.requests import Request


def request_of(record: FakeRecord) -> Request:
    return Request(
        record=record,
        headers=default_headers(record),
        lane=Lane.REQUESTS,
        tensors={"text": np.zeros((1, 1))},
        rows=1,
        form=ALL_AS_BYTES,
    )


@pytest.mark.parametrize("may_run_on_loop", [True, False])
async def test_a_version_with_steps_never_runs_on_the_event_loop(may_run_on_loop: bool) -> None:
    threads: list[int] = []

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        threads.append(threading.get_ident())
        return dict(inputs)

    clock, record = SystemClock(), FakeRecord()
    runner = BatchRunner(
        run,
        scheduler=LaneScheduler(bulk_share=0.2, clock=clock),
        clock=clock,
        threads=1,
        may_run_on_loop=may_run_on_loop,
    )
    request = request_of(record)
    # The first run of all tells how long one takes.
    for _ in range(3):
        await runner.run([[request]])
    runner.close()

    assert (threads[-1] == threading.get_ident()) is may_run_on_loop


def spend(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


@pytest.mark.parametrize("is_model_slow", [True, False])
async def test_the_time_of_the_model_alone_decides(is_model_slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacking and cutting the rows of many requests takes longer than a small model, and holds Python's lock."""
    threads: list[int] = []
    run_batch = model_module.run_batch

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        threads.append(threading.get_ident())
        spend(0.001 if is_model_slow else 0.0)
        return dict(inputs)

    def slow_around_the_model(run: Any, requests: Any) -> Any:
        spend(0.001)
        return run_batch(run, requests)

    monkeypatch.setattr(model_module, "run_batch", slow_around_the_model)
    clock = SystemClock()
    runner = BatchRunner(run, scheduler=LaneScheduler(bulk_share=0.2, clock=clock), clock=clock, threads=1)
    for _ in range(4):
        await runner.run([[request_of(FakeRecord())]])
    runner.close()

    assert (threads[-1] == threading.get_ident()) is not is_model_slow

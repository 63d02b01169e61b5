"""Where a run happens: a short one on the event loop, unless a step of the version may take long for a single row."""

import threading
from collections.abc import Mapping

import numpy as np
import pytest

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import default_headers
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.runtime.retry import SystemClock
from tests.support.fakes.records import FakeRecord
from workers.lane_scheduler import LaneScheduler
from workers.model import BatchRunner
from workers.requests import Request


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
    request = Request(
        record=record,
        headers=default_headers(record),
        lane=Lane.REQUESTS,
        tensors={"text": np.zeros((1, 1))},
        rows=1,
        form=ALL_AS_BYTES,
    )
    # The first run of all tells how long one takes.
    for _ in range(3):
        await runner.run([[request]])
    runner.close()

    assert (threads[-1] == threading.get_ident()) is may_run_on_loop

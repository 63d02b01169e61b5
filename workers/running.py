"""Runs of the model: whose turn it is, in which thread, and how many in a row."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.answers import RunTimes
from workers.batching import Outcome, Run, run_batch
from workers.run_cost import RunCost

if TYPE_CHECKING:
    from inferlane.contracts.naming import Lane
    from inferlane.runtime.clock import Clock
    from workers.lane_scheduler import LaneScheduler
    from workers.requests import Request

# Bulk results that are held back until all of a take are there. More in one send could take longer than a request to
# the broker may.
HELD_BYTES = 1024 * 1024
# A run that takes no longer is made on the event loop: to hand it to the thread and back costs 0.06 ms of CPU
# (docs/adr/0008). A larger one would hold up heartbeats and fetches.
_INLINE_S = 0.0001


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a batch, and when; without outcomes if nothing of it was due."""

    outcomes: Sequence[Outcome]
    times: RunTimes

    @property
    def output_bytes(self) -> int:
        """What the outputs take."""
        outputs = (array for outcome in self.outcomes for array in (outcome.outputs or {}).values())
        # An output that is no array is found out where it is encoded.
        return sum(getattr(array, "nbytes", 0) for array in outputs)


class Runner:
    """Runs batches of one model. One event loop, and one thread: a second would only fight it for the core."""

    def __init__(self, run: Run, *, scheduler: "LaneScheduler", clock: "Clock", threads: int) -> None:
        """`threads` is what one run of the model may use."""
        self._run = run
        self._scheduler = scheduler
        self._clock = clock
        self._cost = RunCost()
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")

    def close(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False)

    def turn(self, lane: "Lane") -> AbstractAsyncContextManager[None]:
        """Hold the model while the block runs."""
        return self._scheduler.turn(lane)

    async def run(self, batches: "Sequence[Sequence[Request]]") -> list[Ran]:
        """Run the batches within a turn, at least the first; those behind it only while no client waits for a turn.

        A way back to the event loop between two runs would leave the model without work whenever the loop has some.
        """
        rows = sum(request.rows for batch in batches for request in batch)
        if self._cost.of(rows) <= _INLINE_S:
            return self._run_in_a_row(batches)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run_in_a_row, batches)

    def _run_in_a_row(self, batches: "Sequence[Sequence[Request]]") -> list[Ran]:
        ran: list[Ran] = []
        output_bytes = 0
        for batch in batches:
            ran.append(self._run_batch(batch))
            output_bytes += ran[-1].output_bytes
            if self._scheduler.has_waiting_client or output_bytes >= HELD_BYTES:
                break
        return ran

    def _run_batch(self, batch: "Sequence[Request]") -> Ran:
        started_s, before_s = self._clock.now_s(), time.thread_time()
        outcomes = run_batch(self._run, batch) if batch else []
        # A run that failed says nothing of one that does not.
        if batch and not any(outcome.error for outcome in outcomes):
            # Of the threads of a run this one's time is known alone.
            spent_s = (time.thread_time() - before_s) * self._threads
            self._cost.note(sum(request.rows for request in batch), spent_s)
        return Ran(outcomes, RunTimes(started_s=started_s, ended_s=self._clock.now_s()))

"""A run that does not end, in the real onnxruntime: it is ended, and the worker halts."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from inferlane.contracts.naming import Lane
from inferlane.errors import ModelError
from inferlane.runtime.config import load_settings
from models.store import write_model
from models.store_reader import load_catalog
from tests.rollouts.candidates import CANDIDATES, ODD
from tests.support.decoding import decode
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import FakeRecord
from tests.support.fakes.zoo import add_version
from tests.support.parts import eventually
from workers.failure_limit import FailureLimit
from workers.lane_scheduler import LaneScheduler
from workers.model import BatchRunner, OnnxModel
from workers.requests import Request
from workers.run_limit import RunLimit

LIMIT_S = 0.2
WAIT_S = 30.0
USUAL, ODD_ROW = [1.0, 2.0, 3.0], [3 * ODD, 0.0, 0.0]
HAS_FALLBACK = ("ce_fallback", b"v1")
IS_COPY = ("ce_shadowof", b"v1")


class Worker:
    """A model that hangs on odd rows, and what runs it."""

    def __init__(self, folder: Path, candidate: str = "hangs", *, limit_s: float = LIMIT_S) -> None:
        add_version(folder, candidate, CANDIDATES[candidate])
        write_model(folder / "tiny", description="Tiny", default_version=candidate, classes=("a", "b", "c"))
        version = load_catalog(folder, default_model="tiny").models["tiny"].versions[candidate]
        self.model = OnnxModel(version, intra_op_num_threads=1)
        self.clock = FakeClock()
        self.failures = FailureLimit(load_settings().worker, model="tiny", version=candidate, clock=self.clock)
        self.runner = BatchRunner(
            self.model.run,
            scheduler=LaneScheduler(bulk_share=0.2, clock=self.clock),
            clock=self.clock,
            threads=1,
            limit=RunLimit(limit_s, self.model.run_options, failures=self.failures),
        )

    def request(self, row: Sequence[float], *headers: tuple[str, bytes]) -> Request:
        names = (("ce_id", b"r"), ("ce_rollout", b"tiny-1"), *headers)
        record = FakeRecord(value=b'{"instances": [%s]}' % str(list(row)).encode(), headers=names)
        return decode(record, Lane.REQUESTS, self.model.version)

    async def run(self, *requests: Request) -> list[str]:
        """How each request of one batch ended."""
        (ran,) = await self.runner.run([requests])
        return ["inferred" if one.error is None else one.error.code for one in ran.inferred]


@pytest.mark.parametrize("header", [HAS_FALLBACK, IS_COPY])
@pytest.mark.parametrize("runs_before", [0, 3])
async def test_a_run_of_a_version_under_trial_that_does_not_end_is_ended_and_halts_the_worker(
    tmp_path: Path, header: tuple[str, bytes], runs_before: int
) -> None:
    """Guards `RunLimit`: without it, the first run never ends. After a few short runs it is on the event loop."""
    worker = Worker(tmp_path)
    for _ in range(runs_before):
        assert await worker.run(worker.request(USUAL, header)) == ["inferred"]
    batch = [worker.request(ODD_ROW, header), worker.request(USUAL, header), worker.request(USUAL)]
    assert await worker.run(*batch) == [ModelError.code] * 3
    assert worker.failures.is_halted
    assert worker.runner.hands_over
    # It ends that run alone, and after the pause the next requests say whether the model works.
    worker.clock.advance(60)
    assert not worker.runner.hands_over
    assert await worker.run(worker.request(USUAL, header)) == ["inferred"]
    worker.runner.close()


async def test_a_closed_limit_keeps_no_thread_and_still_ends_the_run_under_way(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    before = watchers()
    assert await worker.run(worker.request(USUAL, HAS_FALLBACK)) == ["inferred"]
    # The next run may be on the event loop, so this one is held by hand.
    limit = worker.runner._limit
    assert limit is not None
    with limit.watch(estimate_s=LIMIT_S):
        (watcher,) = watchers() - before
        worker.runner.close()
        await eventually(lambda: is_ended(worker))
    watcher.join(WAIT_S)
    assert not watcher.is_alive()


async def is_ended(worker: Worker) -> bool:
    return bool(worker.model.run_options.terminate)


def watchers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "run_limit"}


async def test_a_slow_run_is_not_ended(tmp_path: Path) -> None:
    # Longer than a busy machine makes it.
    worker = Worker(tmp_path, "slow", limit_s=60.0)
    for _ in range(3):
        assert await worker.run(worker.request(ODD_ROW, HAS_FALLBACK)) == ["inferred"]
    assert not worker.failures.is_halted
    worker.runner.close()

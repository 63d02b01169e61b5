"""A process that dies or hangs comes back, and no accepted request is lost with it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from inferlane.runtime.runfile import RunFile
from tests.e2e.conftest import Answer, Stack
from tests.e2e.processes import pid_of
from tests.support.brokers.processes import wait_until

pytestmark = pytest.mark.timeout(600)

STATUS_WITHIN_S = 120

GOOD = {"instances": [[5.1, 3.5, 1.4, 0.2]], "version": "v1", "deadline_s": 300}
REQUESTS = 60


@pytest.mark.parametrize(
    ("pool", "fault"),
    [("worker-iris-v1", signal.SIGKILL), ("router", signal.SIGKILL), ("worker-iris-v1", signal.SIGSTOP)],
)
def test_requests_accepted_before_and_after_a_fault_are_all_answered(
    stack: Stack, pool: str, fault: signal.Signals
) -> None:
    """A process that was stopped is replaced like one that was killed: guards `ManagedProcess._hangs`."""

    def submit(_number: int) -> Answer:
        return stack.call("/v1/models/predict", GOOD, prefer="respond-async")

    with ThreadPoolExecutor(8) as clients:
        accepted = list(clients.map(submit, range(REQUESTS // 2)))
        os.kill(pid_of(stack, pool), fault)
        accepted += list(clients.map(submit, range(REQUESTS // 2)))
        assert {answer.status for answer in accepted} == {202}

        def await_result(answer: Answer) -> str:
            for _ in range(6):
                status: str = stack.call(answer.headers["location"] + "?wait_s=30").body["status"]
                if status != "QUEUED":
                    break
            return status

        statuses = list(clients.map(await_result, accepted))
    assert set(statuses) == {"SUCCEEDED"}


@contextmanager
def state_unwritable(stack: Stack) -> Iterator[None]:
    """Neither the run file nor a log can be written while the block runs, by root neither."""
    state = stack.folder / ".inferlane"
    for name in ("up.json", "logs"):
        (state / name).rename(state / f"{name}.away")
    (state / "up.json").mkdir()
    (state / "logs").touch()
    try:
        yield
    finally:
        (state / "up.json").rmdir()
        (state / "logs").unlink()
        for name in ("up.json", "logs"):
            (state / f"{name}.away").rename(state / name)


def test_a_state_directory_that_cannot_be_written_ends_nothing(stack: Stack) -> None:
    """Guards `StateFiles` and `_output_of`: the supervisor died at its next write and took the broker's data along."""
    supervisor = RunFile(stack.folder / ".inferlane").read()
    assert supervisor is not None
    pools = ("router", "worker-iris-v1", "dashboard")
    before = {pool: pid_of(stack, pool) for pool in pools}
    with state_unwritable(stack):
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        answer = stack.call("/v1/models/predict", GOOD | {"timeout_s": 60})
        assert (answer.status, answer.body.get("status")) == (200, "SUCCEEDED")
    assert supervisor.is_running

    def is_shown_again() -> bool:
        return all(pid_of(stack, pool) != before[pool] for pool in pools)

    wait_until(is_shown_again, within_s=STATUS_WITHIN_S, what="the run file names the new processes")
    wait_until(
        lambda: stack.inferlane("status").returncode == 0, within_s=STATUS_WITHIN_S, what="every process is ready"
    )

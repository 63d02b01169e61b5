"""A process that dies or hangs comes back, and no accepted request is lost with it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from inferlane.stack.runfile import RunFile
from tests.e2e.conftest import Answer, Stack

pytestmark = pytest.mark.timeout(600)

GOOD = {"instances": [[5.1, 3.5, 1.4, 0.2]], "version": "v1", "deadline_s": 300}
REQUESTS = 60


def pid_of(stack: Stack, pool: str) -> int:
    record = RunFile(stack.folder / ".inferlane").read()
    assert record is not None
    return next(process.pid for process in record.processes if process.pool == pool)


@pytest.mark.parametrize(
    ("pool", "fault"),
    [("worker-iris-v1", signal.SIGKILL), ("router", signal.SIGKILL), ("worker-iris-v1", signal.SIGSTOP)],
)
def test_requests_accepted_before_and_after_a_fault_are_all_answered(
    stack: Stack, pool: str, fault: signal.Signals
) -> None:
    """A process that was stopped is replaced like one that was killed: guards `Keeper._hangs`."""

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

"""A process whose main task is dead exits: tried on processes, for their exit is the promise."""

import signal
import subprocess
import sys

import pytest

WITHIN_S = 60

PROGRAM = """
import asyncio
from inferlane.runtime import service
from inferlane.runtime.service import run

service._LEAVE_WITHIN_S = 0.5

async def die():
    await asyncio.sleep(0)
    raise ValueError("the part is dead")

async def end():
    pass

async def last():
    await asyncio.Event().wait()

async def serve(stop):
    service.essential(asyncio.create_task({task}(), name="part"))
    print("serving", flush=True)
    {wait}
    print("drained", flush=True)

run(serve)
"""
WAITS = "await stop.wait()"
# As a client does that waits for a broker which is gone.
HANGS = "await stop.wait(); await asyncio.Event().wait()"
# As a library does that holds up the event loop.
BLOCKS = "await stop.wait(); import time; time.sleep(600)"


def program(task: str, wait: str) -> subprocess.Popen[str]:
    source = PROGRAM.format(task=task, wait=wait)
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("wait", [WAITS, HANGS, BLOCKS], ids=["drains", "hangs", "blocks"])
@pytest.mark.parametrize("task", ["die", "end"])
def test_a_process_ends_with_the_task_that_it_lives_by(task: str, wait: str) -> None:
    """Guards `essential` and `leave_within`: without them the process stands there, dead, and nobody starts another."""
    with program(task, wait) as process:
        output, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    assert "process_ends" in output
    assert ("the part is dead" if task == "die" else "ended before it was told to") in output
    assert ("drained" in output) is (wait == WAITS)


def test_a_process_whose_tasks_run_ends_well_when_it_is_told_to() -> None:
    with program("last", WAITS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert "process_ends" not in output

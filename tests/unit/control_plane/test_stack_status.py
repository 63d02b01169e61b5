"""`inferlane status --json`: what the table shows, for programs, and no secret."""

import json
import os
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from control_plane.cli.main import command_line
from inferlane.runtime.runfile import FaultRecord, ProcessRecord, RunFile, RunRecord


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFERLANE_STATE_DIR", str(tmp_path))
    return tmp_path


def write(folder: Path, *, state: str = "ready", faults: tuple[FaultRecord, ...] = ()) -> None:
    """The run file of a stack whose supervisor is this process."""
    started_s = psutil.Process().create_time()
    broker = ProcessRecord(
        name="broker",
        pool="broker",
        pid=os.getpid(),
        create_time_s=started_s,
        state=state,
        restarts=2,
        port=9092,
        ops_url="",
        log="broker.log",
    )
    record = RunRecord(
        pid=os.getpid(),
        create_time_s=started_s,
        phase="ready",
        api_url="http://127.0.0.1:8000",
        environment={"INFERLANE_REDIS_PASSWORD": "s3cret"},
        processes=(broker,),
        faults=faults,
        troubles=("a disk is slow",),
    )
    RunFile(folder).write(record)


def test_a_stack_that_is_well_is_one_object_with_the_readiness_of_each_process(state_dir: Path) -> None:
    write(state_dir)
    ran = CliRunner().invoke(command_line(), ["status", "--json"])
    assert ran.exit_code == 0, ran.output
    assert "s3cret" not in ran.stdout
    found = json.loads(ran.stdout)
    assert (found["phase"], found["api_url"], found["troubles"]) == (
        "ready",
        "http://127.0.0.1:8000",
        ["a disk is slow"],
    )
    (broker,) = found["processes"]
    assert (broker["name"], broker["restarts"], broker["readiness"]) == ("broker", 2, "ready")


@pytest.mark.parametrize(
    ("state", "faults"),
    [("starting", ()), ("ready", (FaultRecord(model="iris", version="v9", reason="it is no model"),))],
)
def test_a_stack_that_is_not_well_exits_with_one_and_says_why(
    state_dir: Path, state: str, faults: tuple[FaultRecord, ...]
) -> None:
    write(state_dir, state=state, faults=faults)
    ran = CliRunner().invoke(command_line(), ["status", "--json"])
    assert ran.exit_code == 1
    found = json.loads(ran.stdout)
    assert found["processes"][0]["readiness"] == state
    assert [fault["reason"] for fault in found["faults"]] == [fault.reason for fault in faults]


@pytest.mark.usefixtures("state_dir")
def test_where_no_stack_runs_the_phase_says_so() -> None:
    ran = CliRunner().invoke(command_line(), ["status", "--json"])
    assert (ran.exit_code, json.loads(ran.stdout)) == (1, {"phase": "absent", "processes": []})

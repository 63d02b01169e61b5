"""Stopping a stack by its run file: only ever the processes that it names."""

import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import pytest

from control_plane.local.detached_stack import ready_lines, stop_detached
from inferlane.runtime.runfile import ProcessRecord, RunRecord, base_url

WAIT_S = 20.0


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) as process:
        yield psutil.Process(process.pid)
        process.kill()


def record_of(process: psutil.Process, *, born_s: float) -> RunRecord:
    """A supervisor that is gone and one process of it."""
    entry = ProcessRecord(
        name="router",
        pool="router",
        pid=process.pid,
        create_time_s=born_s,
        state="ready",
        restarts=0,
        port=0,
        ops_url="",
        log="",
    )
    return RunRecord(
        pid=process.pid,
        create_time_s=born_s - 1,
        phase="ready",
        api_url="",
        environment={},
        processes=(entry,),
    )


def test_a_recycled_pid_is_not_signalled(bystander: psutil.Process) -> None:
    record = record_of(bystander, born_s=bystander.create_time() - 100)
    assert stop_detached(record, wait_s=WAIT_S) == ()
    assert bystander.is_running()


def test_processes_that_outlived_their_supervisor_are_ended(bystander: psutil.Process) -> None:
    record = record_of(bystander, born_s=bystander.create_time())
    assert stop_detached(record, wait_s=WAIT_S) == ("router",)
    assert not bystander.is_running() or bystander.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:8001"),
        ("0.0.0.0", "127.0.0.1:8001"),
        ("::1", "[::1]:8001"),
        ("::", "[::1]:8001"),
        ("fd00::2", "[fd00::2]:8001"),
        ("models.example", "models.example:8001"),
    ],
)
def test_an_address_of_ipv6_stands_in_brackets(host: str, address: str) -> None:
    """A stack at another address than ::1 never started: its own probes had a URL that was none."""
    record = RunRecord(
        pid=1,
        create_time_s=1.0,
        phase="ready",
        api_url=base_url(host, 8000, tls=True),
        environment={"INFERLANE_GRPC_PORT": "8001"},
    )
    assert urlsplit(record.api_url).port == 8000
    assert f"  gRPC     {address}" in ready_lines(record)

"""Stopping a stack by its run file: only ever the processes that it names."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
import pytest
from typer.testing import CliRunner

from control_plane.cli import up_command
from control_plane.cli.main import command_line
from control_plane.local import detached_stack
from control_plane.local.detached_stack import ready_lines, stop_detached
from control_plane.local.profile import AutoscaleOptions, StackOptions, stack_profile
from inferlane.errors import ConfigurationError
from inferlane.runtime import runfile
from inferlane.runtime.config import load_settings
from inferlane.runtime.runfile import ProcessRecord, RunFile, RunRecord, base_url

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


def test_a_supervisor_whose_parent_does_not_ask_after_it_has_ended() -> None:
    """Guards `_kill_after`: psutil waits for a zombie until its time is over."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        seen = psutil.Process(process.pid)
        record = msgspec.structs.replace(record_of(seen, born_s=seen.create_time() + 1), processes=())
        waiting = threading.Thread(target=stop_detached, args=(record,), kwargs={"wait_s": 10 * WAIT_S}, daemon=True)
        waiting.start()
        waiting.join(WAIT_S)
        assert not waiting.is_alive()
        assert seen.status() == psutil.STATUS_ZOMBIE


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


def test_who_calls_up_again_is_told_which_settings_the_running_stack_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever set a file of API keys and called `up` again was told that all is ready, and the API stayed open."""
    me = psutil.Process()
    monkeypatch.chdir(tmp_path)
    environment = stack_profile(load_settings(state_dir=tmp_path), StackOptions()).environment
    record = RunRecord(
        pid=me.pid,
        create_time_s=me.create_time(),
        phase="ready",
        api_url="http://127.0.0.1:8000",
        environment=dict(environment),
    )
    RunFile(tmp_path).write(record)
    same = up_again(tmp_path, INFERLANE_API_PORT="9000")
    assert (same.returncode, same.stderr) == (0, "")
    other = up_again(tmp_path, INFERLANE_API_KEYS_FILE="keys.toml", INFERLANE_WEBHOOK_SECRET=f"whsec_{'QUJD' * 8}")
    assert other.returncode == 0
    assert "with other values of INFERLANE_API_KEYS_FILE, INFERLANE_WEBHOOKS, and goes on" in other.stderr
    assert "`inferlane down` first" in other.stderr


def up_again(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "control_plane", "up", "--detach"]
    environment |= {"PYTHONPATH": str(Path(__file__).parents[3]), "INFERLANE_STATE_DIR": str(folder)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def test_a_detached_stack_has_the_options_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `_arguments`, which left out `--share-below`: the stack came up, with a process for each version."""
    chosen = StackOptions(
        workers=2,
        api_port=18000,
        grpc_port=18001,
        broker_port=19092,
        store_port=16379,
        first_ops_port=18100,
        store_maxmemory_mib=64,
        dashboard_port=13000,
        shared_worker_max_model_bytes=1_000_000,
        autoscale=AutoscaleOptions(scaled_objects=Path("other.yaml"), max_workers=3, hpa_sync_s=0.5),
        forks=False,
    )
    defaults = StackOptions()
    same = [part.name for part in fields(chosen) if getattr(chosen, part.name) == getattr(defaults, part.name)]
    assert same == [], "give each option a value here that is not its default"
    seen: list[StackOptions] = []
    monkeypatch.setattr(up_command, "_up_here", lambda _profile, options: seen.append(options))
    for options in (chosen, replace(chosen, autoscale=None, forks=True)):
        ran = CliRunner().invoke(command_line(), ["up", *up_command._arguments(options)])
        assert ran.exit_code == 0, ran.output
        assert seen.pop() == options


def test_a_process_that_ends_just_before_its_signal_does_not_end_the_command(
    bystander: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the look at the signal: `inferlane down` ended with a traceback, and the rest of the stack ran on."""
    record = record_of(bystander, born_s=bystander.create_time())
    found = detached_stack.same_process

    def end_after_the_look(pid: int, create_time_s: float) -> psutil.Process | None:
        process = found(pid, create_time_s)
        if process is not None:
            process.kill()
            process.wait()
        return process

    monkeypatch.setattr(detached_stack, "same_process", end_after_the_look)
    assert stop_detached(record, wait_s=WAIT_S) == ("router",)


def test_a_restart_of_a_stack_that_ends_just_now_says_so(
    bystander: psutil.Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(bystander, born_s=bystander.create_time())
    RunFile(tmp_path).write(msgspec.structs.replace(record, pid=bystander.pid, create_time_s=bystander.create_time()))
    found = runfile.same_process

    def end_after_the_look(pid: int, create_time_s: float) -> psutil.Process | None:
        process = found(pid, create_time_s)
        bystander.kill()
        bystander.wait()
        return process

    monkeypatch.setattr(runfile, "same_process", end_after_the_look)
    monkeypatch.setenv("INFERLANE_STATE_DIR", str(tmp_path))
    ended = CliRunner().invoke(command_line(), ["restart"])
    assert isinstance(ended.exception, ConfigurationError)
    assert "has ended just now" in str(ended.exception)

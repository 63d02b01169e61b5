"""Services that are forked: started, reaped and ended as executed ones, and without each other's secrets."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from control_plane.services import run_forked

WAIT_S = 30.0
OTHERS = "of-the-supervisor"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere services are executed")


def argv(case: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.support.forking_supervisor", case, str(folder)]


def run_case(case: str, folder: Path, **environment: str) -> Any:
    ran = subprocess.run(
        argv(case, folder),
        env={**os.environ, **environment},
        capture_output=True,
        timeout=WAIT_S,
        check=True,
        text=True,
    )
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_case("describe", tmp_path_factory.mktemp("described"), INFERLANE_API_KEY=OTHERS)


def test_a_forked_service_has_what_the_supervisor_has_loaded(described: Any) -> None:
    (loader,) = described["service"]["loaded_by"]
    assert loader == described["supervisor"] != described["service"]["pid"]


def test_the_supervisor_is_the_parent_of_a_forked_service_and_gets_its_exit_code(described: Any) -> None:
    assert described["service"]["parent"] == described["supervisor"]
    assert described["code"] == 7


def test_a_forked_service_leads_a_session_and_reads_nothing(described: Any) -> None:
    assert described["service"]["leads_session"]
    assert described["service"]["input"] == os.devnull


def test_a_forked_service_holds_no_descriptor_of_the_server(described: Any) -> None:
    assert not [name for name in described["service"]["descriptors"] if name.startswith(("socket:", "pipe:"))]


def test_a_forked_service_is_found_by_its_command(described: Any) -> None:
    assert " ".join(described["service"]["command"]).rstrip("\0 ") == "inferlane describe --a b"


def test_a_forked_service_has_its_own_environment_alone(described: Any) -> None:
    """Guards `setproctitle` in the server: /proc would show the supervisor's environment, with its secrets."""
    assert described["service"]["environment"] == {"OWN": "x"}
    assert OTHERS not in described["service"]["environment_of_proc"]


def test_an_error_of_a_forked_service_is_in_its_log(tmp_path: Path) -> None:
    found = run_case("fail", tmp_path)
    assert found["code"] == 1
    assert found["log"].splitlines()[-1] == "RuntimeError: a fault of the service"


def test_services_outlive_the_server_and_later_ones_are_executed(tmp_path: Path) -> None:
    found = run_case("outlive", tmp_path)
    assert found == {
        "ran_on": True,
        "code": -signal.SIGKILL,
        "second": "executed\n",
        "second_code": 0,
        "zombies": [],
    }


def test_a_service_is_executed_while_the_server_hangs(tmp_path: Path) -> None:
    assert run_case("hang", tmp_path) == {"code": 0, "log": "executed\n"}


def test_a_supervisor_that_is_killed_takes_server_and_services_along(tmp_path: Path) -> None:
    with subprocess.Popen(argv("be_killed", tmp_path), stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pids = json.loads(supervisor.stdout.readline())
        processes = [psutil.Process(pid) for pid in pids.values()]
        supervisor.kill()
        _, alive = psutil.wait_procs(processes, timeout=WAIT_S)
    assert alive == []


@pytest.mark.parametrize("case", ["with_a_thread", "loading_a_thread"])
def test_no_fork_server_starts_beside_a_thread(case: str, tmp_path: Path) -> None:
    """A lock that the thread holds would stay locked in each service."""
    assert "1 threads" in run_case(case, tmp_path)["error"]


def test_arguments_of_no_service_end_a_forked_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_forked(["up"]) == 2
    assert "'up'" in capsys.readouterr().err


def test_nothing_that_the_services_share_starts_a_thread() -> None:
    """Guards `quiet_libraries` and OpenBLAS' one thread: with another there is no fork server."""
    program = (
        "from control_plane.services import load_all; load_all(); import os; print(*os.listdir('/proc/self/task'))"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "OPENBLAS_"))}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True, text=True)
    assert len(ran.stdout.split()) == 1


def test_services_share_the_compiled_codecs_of_kafka() -> None:
    """Guards `load_all`: each service compiled them for itself, 0.7 MiB a process."""
    program = (
        "from control_plane.services import load_all; load_all(); from aiokafka import conn;"
        "print(conn.AIOKafkaProtocol.__module__)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert ran.stdout.strip() == "inferlane.runtime.kafka.broker_connection"

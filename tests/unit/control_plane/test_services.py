"""Which arguments of `inferlane` start a service at once, and which are for the command line."""

import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from control_plane.services import (
    raise_open_files,
    run_api,
    run_dashboard,
    run_router,
    run_shared_worker,
    run_webhooks,
    run_worker,
    service_of,
)


@pytest.mark.parametrize(
    ("arguments", "service"),
    [(["api"], run_api), (["router"], run_router), (["webhooks"], run_webhooks), (["dashboard"], run_dashboard)],
)
def test_a_service_is_known_by_its_name(arguments: list[str], service: object) -> None:
    assert service_of(arguments) is service


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_worker_is_told_its_model_and_version_in_any_order(order: tuple[int, int]) -> None:
    options = [["--model", "iris"], ["--version", "v1"]]
    found = service_of(["worker", *options[order[0]], *options[order[1]]])
    assert isinstance(found, partial)
    assert found.func is run_worker
    assert found.keywords == {"model": "iris", "version": "v1"}


def test_a_shared_worker_is_told_a_file_of_versions() -> None:
    found = service_of(["worker", "--roster", "versions.txt"])
    assert isinstance(found, partial)
    assert found.func is run_shared_worker
    assert found.keywords == {"names": (), "roster": Path("versions.txt")}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["up"],
        ["api", "--help"],
        ["worker"],
        ["worker", "--help"],
        ["worker", "--model", "iris"],
        ["worker", "--model", "iris", "--model", "iris"],
        ["worker", "--model", "iris", "--version", "v1", "--help"],
        ["--version"],
    ],
)
def test_everything_else_is_for_the_command_line(arguments: list[str]) -> None:
    assert service_of(arguments) is None


def test_an_error_of_a_service_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "control_plane", "api"],
        env={"INFERLANE_API_PORT": "none", "PYTHONPATH": str(Path.cwd())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error (configuration_error) INFERLANE_API_PORT='none'")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1_024, 524_288), (65_536, 524_288)),
        ((1_024, 4_096), (4_096, 4_096)),
        ((1_024, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY)),
        ((100_000, 524_288), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_a_process_takes_as_many_open_files_as_it_may_have(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: tuple[int, int] | None
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: given.append(wanted))
    raise_open_files()
    assert given == ([] if raised is None else [raised])


def test_each_command_raises_its_open_files() -> None:
    program = (
        "import resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); sys.argv = ['inferlane', '--version']\n"
        "from control_plane.command import main\n"
        "try: main()\n"
        "except SystemExit: print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True", done.stderr

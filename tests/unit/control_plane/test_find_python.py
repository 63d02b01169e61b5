"""Which Python `.venv` is made with: the first that will do, or the fastest where that is asked for."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
TOO_OLD = None


@pytest.mark.parametrize(
    ("wish", "microseconds", "chosen"),
    [
        ("", {"python3": 100, "python3.13": 70}, "python3"),
        ("", {"python3": TOO_OLD, "python3.12": 100}, "python3.12"),
        ("fastest", {"python3": 100, "python3.13": 70}, "python3.13"),
        ("fastest", {"python3": 100, "python3.13": 90}, "python3"),
        ("fastest", {"python3": 70, "python3.14": 100}, "python3"),
        ("fastest", {"python3": TOO_OLD, "python3.12": 100}, "python3.12"),
        ("fastest", {"python3": 100, "python3.13": 80, "python3.12": 60}, "python3.12"),
        ("python3.12", {"python3": 60, "python3.12": 100}, "python3.12"),
    ],
)
def test_the_fastest_python_is_taken_if_it_is_asked_for_and_the_difference_is_no_chance(
    wish: str, microseconds: Mapping[str, int | None], chosen: str, tmp_path: Path
) -> None:
    """The microseconds are far below what a real interpreter takes, so that none of this machine is ever chosen."""
    for name, took in microseconds.items():
        fake = tmp_path / name
        fake.write_text("#!/bin/sh\nexit 1\n" if took is TOO_OLD else f"#!/bin/sh\necho {took}\n", encoding="utf-8")
        fake.chmod(0o755)
    found = find(wish, tmp_path)
    assert found.returncode == 0
    assert found.stdout.strip() == str(tmp_path / chosen)


def test_a_named_python_that_will_not_do_is_an_error_and_no_other_is_taken(tmp_path: Path) -> None:
    """Any name but `fastest` was passed over."""
    found = find("python3.99", tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert "INFERLANE_PYTHON=python3.99 is no Python >= 3.11" in found.stderr


def find(wish: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / ".ci" / "find-python.sh"],
        env={"INFERLANE_PYTHON": wish, "PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"},
        check=False,
        capture_output=True,
        text=True,
    )

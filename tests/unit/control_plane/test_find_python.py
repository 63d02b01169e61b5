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
    found = subprocess.run(
        [REPOSITORY / ".ci" / "find-python.sh"],
        env={"INFERLANE_PYTHON": wish, "PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == str(tmp_path / chosen)

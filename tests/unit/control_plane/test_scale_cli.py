"""`inferlane scale`: what it prints, the files that it writes, and what it refuses."""

import csv
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from control_plane.cli.main import command_line
from inferlane.errors import ConfigurationError

SHORT = ("--duration", "120", "--rate", "500")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command_line(), ["scale", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_run_is_told_in_numbers_and_written_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    told = run("simulate", "--pattern", "steady", *SHORT, "--out", str(path))
    assert "60,000 records" in told
    assert "wait of requests" in told
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    assert sum(float(row["arrived_requests"]) for row in rows) == pytest.approx(60_000)
    assert max(float(row["desired"]) for row in rows) > 1


def test_versions_share_a_load_and_the_wait_of_one_is_that_of_all_that_are_alike() -> None:
    one = run("simulate", "--pattern", "steady", *SHORT)
    many = run("simulate", "--pattern", "steady", "--duration", "120", "--rate", "5000", "--versions", "10")
    assert [line for line in one.splitlines() if "wait of" in line] == [
        line for line in many.splitlines() if "wait of" in line
    ]
    assert "600,000 records" in many


def test_a_scaled_object_is_tried_as_it_is_written() -> None:
    manifest = Path(__file__).parents[2] / "e2e" / "scaled_objects.yaml"
    told = run("simulate", "--scaled-object", str(manifest), "--model", "digits", "--version", "v2-quantized", *SHORT)
    assert "0 to 2 workers" in told
    assert "inferlane.digits.v2-quantized.requests: lagThreshold 40" in told
    with pytest.raises(ConfigurationError, match=r"inferlane\.digits\.v9"):
        run("simulate", "--scaled-object", str(manifest), "--model", "digits", "--version", "v9")


def test_a_trace_is_followed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s,requests_per_s\n0,0\n30,100\n60,0\n")
    assert "3,000 records" in run("simulate", "--trace", str(trace))


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    run("simulate", *SHORT, "--out", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match=r"inferlane\[plot\]"):
        run("simulate", *SHORT, "--out", str(tmp_path / "run.svg"))


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\.gif"):
        run("simulate", *SHORT, "--out", str(tmp_path / "run.gif"))


def test_a_plan_counts_what_a_deployment_takes() -> None:
    told = run("plan", "--versions", "50", "--skew", "0", "--service-time", "0.01", "--batch-overhead", "0")
    rows = [line.split() for line in told.splitlines()]
    assert ["workers", "150"] in [row[:2] for row in rows]
    assert ["partitions", "1,242"] in [row[:2] for row in rows]
    assert ["consumer", "groups", "53"] in [row[:3] for row in rows]

"""`inferlane models`: exit codes, remedies, and a start that loads nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from control_plane.cli.models_commands import app
from inferlane.errors import ConfigurationError, InferlaneError
from tests.support.fakes.stores import write_tiny_store


@pytest.fixture(autouse=True)
def _tiny_is_the_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERLANE_DEFAULT_MODEL", "tiny")


def test_verify_exits_0_on_a_whole_store_and_1_once_a_byte_is_flipped(tmp_path: Path) -> None:
    onnx = write_tiny_store(tmp_path)
    command = ["verify", "--models-dir", str(tmp_path)]

    whole = CliRunner().invoke(app, command)
    onnx.write_bytes(onnx.read_bytes()[:-1] + b"\0")
    spoilt = CliRunner().invoke(app, command)

    assert (whole.exit_code, whole.stdout) == (0, "tiny v1: ok\n")
    assert spoilt.exit_code == 1
    assert spoilt.stdout.startswith("tiny v1: failed")


def test_list_names_each_version_with_its_accuracy(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)

    listing = CliRunner().invoke(app, ["list", "--models-dir", str(tmp_path)], env={"COLUMNS": "120"})

    assert listing.exit_code == 0
    assert "v1 (default)" in listing.stdout
    assert "75.0%" in listing.stdout


def test_list_for_programs_has_each_version_and_what_cannot_be_served(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "model.toml").write_text("[")

    listing = json.loads(CliRunner().invoke(app, ["list", "--json", "--models-dir", str(tmp_path)]).stdout)

    (version,) = listing["versions"]
    assert (version["model"], version["version"], version["is_default"]) == ("tiny", "v1", True)
    assert version["digest"].startswith("sha256:")
    assert version["metrics"]["held_out_accuracy"] == 0.75
    (fault,) = listing["faults"]
    assert fault["model"] == "torn"
    assert fault["reason"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("serve", "nope/v1"), "has no model 'nope'; there are: tiny"),
        (("serve", "tiny/nope"), "model 'tiny' has no version 'nope'; it has: v1"),
        (("quantize", "nope/v1", "--data", "rows.csv"), "has no model 'nope'; there are: tiny"),
        (("quantize", "tiny/nope", "--data", "rows.csv"), "model 'tiny' has no version 'nope'; it has: v1"),
        (("serve", "tiny"), "'tiny' names a model and no version; write tiny/VERSION."),
        (("retire", "tiny/"), "'tiny/' names a model and no version; write tiny/VERSION."),
        (("default", "tiny"), "'tiny' names a model and no version; write tiny/VERSION."),
        (("retire", "a b/v1"), "'a b/v1' names no version; write MODEL/VERSION, as fraud/v3: the model name 'a b'"),
    ],
    ids=str,
)
def test_a_name_that_is_none_of_the_store_is_answered_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    write_tiny_store(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, [*arguments, "--models-dir", "store"])
    assert isinstance(ended.exception, InferlaneError)
    assert says in str(ended.exception)


def test_building_without_the_extra_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sample_build", "training"):
        monkeypatch.delitem(sys.modules, f"models.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # where another test loaded it already

    outcome = CliRunner().invoke(app, ["build-samples", "--models-dir", str(tmp_path)])

    assert isinstance(outcome.exception, ConfigurationError)
    assert "pip install 'inferlane[models]'" in str(outcome.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("control_plane.cli.models_commands", {"sklearn", "onnx", "skl2onnx", "onnxruntime"}),
        (
            "control_plane.cli.main as main; main.command_line()",
            {"numpy", "aiokafka", "redis", "aiohttp", "fastapi", "pydantic", "structlog", "asyncio", "urllib.request"},
        ),
        # A command loads its own module alone.
        (
            "control_plane.cli.main as main; main.command_line('status')",
            {f"control_plane.cli.{name}" for name in ("up_command", "doctor", "models_commands", "batch_commands")}
            | {"dotenv"},
        ),
        ("control_plane.command", {"typer", "rich", "pydantic", "numpy", "asyncio"}),
        # What `inferlane status` needs.
        ("control_plane.local.stack_report", {"numpy", "aiokafka", "redis", "aiohttp", "fastapi", "structlog", "yaml"}),
        ("inferlane.runtime.config", {"numpy", "aiokafka", "redis", "aiohttp", "fastapi", "structlog", "yaml"}),
        ("models.build", {"sklearn", "onnx", "skl2onnx"}),
        # A client of 12 MiB, which would stay in the supervisor.
        ("control_plane.local.embedded_parts as parts; parts.store_argv(1, maxmemory_mib=1)", {"valkey"}),
    ],
)
def test_nothing_heavy_is_loaded_before_there_is_something_to_build(module: str, heavy: set[str]) -> None:
    script = f"import sys, {module}; print(*({heavy!r} & sys.modules.keys()))"

    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)

    assert loaded.stdout.split() == []


@pytest.mark.parametrize(("command", "is_nicer"), [("models", True), ("topics", False)])
def test_work_on_models_gives_way_to_a_stack_that_runs_beside_it(command: str, is_nicer: bool) -> None:
    code = (
        f"import os, sys; sys.argv = ['inferlane', {command!r}, '--help']\n"
        "from control_plane.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print('niceness', os.nice(0))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (int(ran.stdout.rpartition("niceness ")[2]) > os.nice(0)) is is_nicer, ran.stderr

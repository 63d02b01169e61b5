"""`inferlane init` writes a folder that starts, and `inferlane.env` is read where a command starts."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from control_plane.cli.main import command_line
from control_plane.cli.settings_file import misspelt_variables, read_settings_file
from control_plane.services import SETTINGS_FILE
from inferlane import __version__
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings, setting_fields

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    folder = tmp_path / "starter"
    outcome = CliRunner().invoke(command_line(), ["init", str(folder)])
    assert outcome.exit_code == 0, outcome.output
    return folder


@pytest.fixture(autouse=True)
def _environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("INFERLANE_")]:
        monkeypatch.delenv(name)
    # What a test puts there beside monkeypatch goes with this copy.
    monkeypatch.setattr(os, "environ", os.environ.copy())


def _read(folder: Path, text: str) -> None:
    (folder / SETTINGS_FILE).write_text(text)
    read_settings_file(folder)


def test_the_compose_file_is_the_projects_own_and_finds_all_that_it_mounts(starter: Path) -> None:
    compose = (starter / "docker-compose.yml").read_text()
    assert compose == (REPOSITORY / "docker-compose.yml").read_text()
    mounts = re.findall(r"- \./(\S+?):/", compose)
    assert mounts
    assert all((starter / mount).exists() for mount in mounts)


def test_each_password_that_compose_asks_for_is_random_and_for_the_owner_alone(starter: Path, tmp_path: Path) -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (starter / "docker-compose.yml").read_text()))
    lines = dict(line.split("=") for line in (starter / ".env").read_text().split())
    assert lines.keys() == asked
    assert len(set(lines.values())) == len(asked)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in lines.values())
    assert stat.S_IMODE((starter / ".env").stat().st_mode) == 0o600
    CliRunner().invoke(command_line(), ["init", str(tmp_path / "other")])
    assert (tmp_path / "other" / ".env").read_text() != (starter / ".env").read_text()


def test_what_is_there_is_kept(starter: Path) -> None:
    (starter / ".env").write_text("INFERLANE_REDIS_PASSWORD=mine\n")
    (starter / "Dockerfile").unlink()
    outcome = CliRunner().invoke(command_line(), ["init", str(starter)])
    assert outcome.exit_code == 0
    assert (starter / ".env").read_text() == "INFERLANE_REDIS_PASSWORD=mine\n"
    assert (starter / "Dockerfile").is_file()
    assert "kept as it was" in outcome.output


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = CliRunner().invoke(command_line(), ["init", str(tmp_path / "file")])
    assert isinstance(outcome.exception, ConfigurationError)


def test_the_settings_file_names_every_setting_with_its_default(starter: Path) -> None:
    defaults = load_settings().model_dump()
    text = (starter / SETTINGS_FILE).read_text()
    shown = re.findall(r"(?m)^# (INFERLANE_\w+)=(.*)$", text)
    assert [name for name, _ in shown] == [f"INFERLANE_{name.upper()}" for name in setting_fields()]
    _read(starter, "".join(f"{name}={value}\n" for name, value in shown if value))
    assert load_settings().model_dump() == defaults


def test_a_value_of_the_file_is_a_setting_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERLANE_LOG_LEVEL", "ERROR")
    _read(
        tmp_path, "INFERLANE_API_PORT=8123\nINFERLANE_LOG_LEVEL=DEBUG\nINFERLANE_WORKERS=2\nOTEL_SERVICE_NAME='a b'\n"
    )
    assert load_settings().api.port == 8123
    assert load_settings().stack.log_level == "ERROR"
    assert os.environ["INFERLANE_WORKERS"] == "2"
    assert os.environ["OTEL_SERVICE_NAME"] == "a b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("INFERLANE_API_PROT=1\n", "Did you mean INFERLANE_API_PORT?"),
        ("INFERLANE_ZZ=1\n", "INFERLANE_ZZ, which is no setting"),
        ("INFERLANE_API_PORT\n", "without a value"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_line_that_would_have_no_effect_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / SETTINGS_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        read_settings_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("INFERLANE_DEFAUT_WAIT_S", "INFERLANE_DEFAULT_WAIT_S"),
        ("INFERLANE_KAFKA_BOOTSTRAP_SERVER", "INFERLANE_KAFKA_BOOTSTRAP_SERVERS"),
        ("INFERLANE_API_PROT", "INFERLANE_API_PORT"),
        ("INFERLANE_WORKER", "INFERLANE_WORKERS"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_setting_that_was_meant(name: str, meant: str) -> None:
    assert list(misspelt_variables(["PATH", name, meant])) == [(name, meant)]
    program = "import sys; sys.argv = ['inferlane', 'doctor']; from control_plane.cli.main import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {name: "1"}, capture_output=True, text=True, check=False
    )
    assert f"warning {name} is no setting and has no effect. Did you mean {meant}?" in ran.stderr


def test_variables_of_other_programs_are_not_taken_for_misspelt_ones() -> None:
    others = ["PYTHON", "IMAGE", "TEST_BROKER", "FAULT_RATE", "FAULT_NODES", "HPA_SYNC_S", "SCALED_OBJECTS"]
    # Kubernetes names the parts of a service so.
    others += ["API_SERVICE_PORT", "API_SERVICE_HOST", "API_PORT_8000_TCP", "VALKEY_PORT"]
    assert not list(misspelt_variables([f"INFERLANE_{name}" for name in others]))


def test_version_is_an_option() -> None:
    outcome = CliRunner().invoke(command_line(), ["--version"])
    assert outcome.output == f"inferlane {__version__}\n"


def test_a_shell_is_told_how_a_word_goes_on() -> None:
    asked = {"_INFERLANE_COMPLETE": "complete_bash", "COMP_WORDS": "inferlane mod", "COMP_CWORD": "1"}
    command = Path(sys.executable).with_name("inferlane")
    told = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert told.stdout.split() == ["models"]


def test_a_process_of_either_image_may_write_where_it_keeps_files_although_its_root_is_read_only(starter: Path) -> None:
    for image in (starter / "Dockerfile", Path(__file__).parents[3] / "Dockerfile"):
        assert "INFERLANE_STATE_DIR=/tmp" in image.read_text(), image

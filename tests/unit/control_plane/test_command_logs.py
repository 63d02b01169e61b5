"""What is logged while a command runs: libraries' lines do not reach the terminal, and our warnings not its output."""

import logging
import sys
from pathlib import Path
from subprocess import run

import pytest
import structlog

from control_plane.cli.console import run_work
from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.logs import logs_of_a_command
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import free_port

LIBRARY = logging.getLogger("a_library")
COMMANDS = (
    ("topics", "create"),
    ("acls", "create"),
    ("dead-letters", "list"),
    ("batch", "submit", "rows.csv", "--out", "out.jsonl"),
    ("replay", "tiny", "--to", "v1"),
    ("models", "show", "tiny"),
)
# Each command in its turn, in one process: its standard error, then a line that separates it from the next.
PROGRAM = """
import sys
from control_plane.cli.main import main
for command in {commands!r}:
    sys.argv = ["inferlane", *command]
    try:
        main()
    except SystemExit as ended:
        print("exit", ended.code, file=sys.stderr)
"""


def test_of_a_broker_that_is_down_each_command_says_one_line_which_has_the_cause(tmp_path: Path) -> None:
    """In a process of its own: where pytest listens to logs, Python writes no library's line to the terminal."""
    write_tiny_store(tmp_path / "models")
    (tmp_path / "rows.csv").write_text("input_0,input_1,input_2\n1,2,3\n")
    environment = {
        "PATH": "",
        "COLUMNS": "1000",
        "INFERLANE_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "INFERLANE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "INFERLANE_MODELS_DIR": str(tmp_path / "models"),
        "INFERLANE_STATE_DIR": str(tmp_path / "state"),
        "INFERLANE_DEFAULT_MODEL": "tiny",
    }
    program = PROGRAM.format(commands=COMMANDS)
    done = run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    *said, after = done.stderr.split("exit 1\n")
    assert after == ""
    faults = {
        command: text
        for command, text in zip(COMMANDS, said, strict=True)
        if not text.splitlines()[-1].startswith("error (unavailable) ")
        or "Connect call failed" not in text
        # The job says first how it reads the file.
        or len(text.splitlines()) > 1 + (command[0] == "batch")
    }
    assert faults == {}
    assert done.stdout == ""


def test_our_warnings_go_to_standard_error_and_less_than_warnings_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    ours = structlog.get_logger("ours")
    with logs_of_a_command():
        ours.info("moved")
        ours.warning("not_moved", left=3)
        LIBRARY.error("of a library")
    written, said = capsys.readouterr()
    assert written == ""
    (line,) = said.splitlines()
    assert "not_moved" in line
    assert "left=3" in line


def test_a_task_that_nobody_waited_for_is_still_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with logs_of_a_command():
        logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert capsys.readouterr().err == "Task exception was never retrieved\n"


def test_everything_is_as_before_once_the_command_is_done() -> None:
    before = structlog.get_config() if structlog.is_configured() else None
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ConfigurationError), logs_of_a_command():
        raise ConfigurationError("a command that fails")
    assert list(logging.getLogger().handlers) == handlers
    assert (structlog.get_config() if structlog.is_configured() else None) == before


def test_what_a_library_logged_last_is_the_cause_of_what_does_not_answer() -> None:
    async def fails(error: Exception) -> None:
        LIBRARY.error("refused for %s", "a reason")
        LIBRARY.error("a traceback is no cause for people", exc_info=ValueError("of a library"))
        LIBRARY.warning("tried again")
        raise error

    with pytest.raises(UnavailableError) as caught:
        run_work(fails(UnavailableError("no answer")))
    assert caught.value.__notes__ == ["refused for a reason"]
    with pytest.raises(ConfigurationError) as other:
        run_work(fails(ConfigurationError("not of the network")))
    assert not hasattr(other.value, "__notes__")

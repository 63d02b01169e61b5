"""What others wrote never steers the terminal of whoever runs a command, whichever command it is."""

import ast
import io
import math
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cli import doctor as doctor_command
from control_plane.cli import main as main_module
from control_plane.cli import model_listing, provisioning_commands
from control_plane.cli.api_calls import ApiCalls
from control_plane.cli.console import PlainConsole, styled, write_json
from control_plane.local import stack_report
from inferlane.contracts.dead_letters import Cause, DeadLetter, Original
from inferlane.contracts.record import default_headers
from inferlane.errors import ConfigurationError, UnavailableError, printable
from inferlane.runtime import dead_letter_replay
from inferlane.runtime.config import load_settings
from inferlane.runtime.dead_letter_replay import FoundDeadLetter
from inferlane.runtime.logs import configure_logs
from inferlane.runtime.runfile import PoolRecord, ProcessRecord, RunFile, RunRecord
from tests.support.fakes.records import make_catalog, make_version
from tests.support.fakes.stores import write_tiny_store

HOSTILE = "[red]x[nope]:skull:\x1b[2J\x1b]0;own\x07\x9b31m\u202e"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
CLI = Path(main_module.__file__).parent

Arrange = Callable[[pytest.MonkeyPatch, Path], list[str]]


def hostile_dead_letter() -> FoundDeadLetter:
    original = Original(
        topic=HOSTILE,
        partition=0,
        offset=1,
        timestamp=0,
        key=HOSTILE.encode(),
        value=HOSTILE.encode(),
        headers=(("ce_id", HOSTILE.encode()), ("ce_model", HOSTILE.encode()), (HOSTILE, HOSTILE.encode())),
    )
    cause = Cause(reason=HOSTILE, detail=HOSTILE, attempts=1, stack=HOSTILE)
    return FoundDeadLetter(
        DeadLetter(offset=3, dead_lettered_s=0.0, cause=cause, original=original, cut=HOSTILE),
        default_headers(original),
    )


def dead_letters(patch: pytest.MonkeyPatch, _: Path, *, argv: list[str]) -> list[str]:
    async def found(*_: object, **__: object) -> AsyncIterator[FoundDeadLetter]:
        yield hostile_dead_letter()

    patch.setattr(dead_letter_replay, "matching_dead_letters", found)
    return ["dead-letters", *argv]


def from_state_dir(patch: pytest.MonkeyPatch, folder: Path, *, argv: list[str]) -> list[str]:
    patch.setenv("INFERLANE_STATE_DIR", str(folder / HOSTILE))
    return argv


def no_models(patch: pytest.MonkeyPatch, folder: Path, *, argv: list[str]) -> list[str]:
    patch.setenv("INFERLANE_MODELS_DIR", str(folder / HOSTILE))
    return argv


def status(patch: pytest.MonkeyPatch, _: Path, *, argv: list[str]) -> list[str]:
    process = ProcessRecord(
        name=HOSTILE, pool=HOSTILE, pid=1, create_time_s=1.0, state=HOSTILE, restarts=0, port=1, ops_url="", log=HOSTILE
    )
    pool = PoolRecord(name=HOSTILE, workers=1, least=0, most=1, reason=HOSTILE, lag_records=None)
    record = RunRecord(
        pid=1,
        create_time_s=1.0,
        phase=HOSTILE,
        api_url=HOSTILE,
        environment={},
        processes=(process,),
        scaled_pools=(pool,),
        failure=HOSTILE,
    )

    async def readiness(_: RunRecord) -> list[str]:
        return [HOSTILE]

    patch.setattr(RunFile, "read", lambda _: record)
    patch.setattr(RunRecord, "is_running", True)
    patch.setattr(stack_report, "readiness_of", readiness)
    return argv


def doctor(patch: pytest.MonkeyPatch, _: Path, *, argv: list[str]) -> list[str]:
    async def fails() -> str:
        raise UnavailableError(HOSTILE)

    async def passes() -> str:
        return HOSTILE

    checks = (
        doctor_command.DoctorCheck(name=HOSTILE, see=fails),
        doctor_command.DoctorCheck(name="well", see=passes),
        doctor_command.DoctorCheck(name="skipped", needs=frozenset({HOSTILE}), see=passes),
    )
    patch.setattr(doctor_command, "_checks", lambda *_: checks)
    return argv


def models(patch: pytest.MonkeyPatch, _: Path, *, argv: list[str]) -> list[str]:
    catalog = make_catalog(HOSTILE)
    catalog.models["iris"].versions[HOSTILE] = make_version(HOSTILE)  # type: ignore[index]  # a dict in the fake
    patch.setattr(model_listing, "catalog_of", lambda _: catalog)
    patch.setattr(model_listing, "_fault_of", lambda _: HOSTILE)
    return ["models", *argv]


def build_samples(patch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    import models.build  # noqa: PLC0415 - scikit-learn takes seconds to load

    patch.setattr(models.build, "build_samples", lambda *_, **__: ())
    return ["models", "build-samples", "--models-dir", str(folder / HOSTILE)]


def topics(patch: pytest.MonkeyPatch, _: Path, *, argv: list[str]) -> list[str]:
    async def refuses(*_: object) -> None:
        raise UnavailableError(HOSTILE)

    patch.setattr("control_plane.topic_admin.create_topics", refuses)
    patch.setattr(provisioning_commands, "chosen_versions", lambda *_: [(HOSTILE, HOSTILE)])
    return ["topics", *argv]


def acls(patch: pytest.MonkeyPatch, _: Path, *, argv: list[str]) -> list[str]:
    async def refuses(*_: object) -> None:
        raise UnavailableError(HOSTILE)

    patch.setattr("control_plane.broker_acls.grant_rights", refuses)
    patch.setattr("control_plane.broker_acls.revoke_rights", refuses)
    patch.setattr(provisioning_commands, "chosen_versions", lambda *_: [(HOSTILE, HOSTILE)])
    return ["acls", *argv]


def revoke(_: pytest.MonkeyPatch, folder: Path) -> list[str]:
    file = folder / "keys.toml"
    file.write_text("keys = []\n")
    return ["keys", "revoke", HOSTILE, "--file", str(file)]


def given_argv(_: pytest.MonkeyPatch, folder: Path, *, argv: list[str]) -> list[str]:
    return [part.format(folder=folder) for part in argv]


def rollouts(patch: pytest.MonkeyPatch, folder: Path, *, argv: list[str]) -> list[str]:
    event = {"number": 1, "at_s": 1.0, "phase": HOSTILE, "was": HOSTILE, "reason": HOSTILE, "by": HOSTILE}
    verdict = {"check": HOSTILE, "says": HOSTILE}
    state = {
        "id": HOSTILE,
        "spec": {"model": HOSTILE, "stable": HOSTILE, "candidate": HOSTILE, "steps": [{"weight": 0.1}]},
        "phase": "paused",
        "weight": 0.1,
        "reason": HOSTILE,
        "waits_for": HOSTILE,
        "verdicts": [verdict],
        "events": [{**event, "verdicts": [verdict]}],
    }

    def get(_: ApiCalls, path: str) -> Any:
        if path.startswith("/v1/traffic-split"):
            return {"weights": {HOSTILE: 1.0}}
        if path.startswith("/v1/metrics"):
            return {"rate_per_s": 1.0, "error_rate": 0.0}
        return {"rollouts": [state]} if path == "/v1/rollouts" else state

    patch.setattr(ApiCalls, "get", get)
    patch.setattr(ApiCalls, "post", lambda *_: state)
    (folder / "rollout.yaml").write_text("candidate: v2\n")
    return ["rollout", *(part.format(folder=folder) for part in argv)]


def starter(patch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    patch.chdir(folder)
    return ["init", HOSTILE]


def broker_of_another(patch: pytest.MonkeyPatch, _: Path, *, argv: list[str]) -> list[str]:
    patch.setenv("INFERLANE_KAFKA_BOOTSTRAP_SERVERS", HOSTILE)
    return argv


SCENARIOS: dict[str, Arrange] = {
    "asyncapi": partial(broker_of_another, argv=["asyncapi"]),
    "acls create": partial(acls, argv=["create"]),
    "acls delete": partial(acls, argv=["delete", "--version", "iris/v1"]),
    "acls list": partial(given_argv, argv=["acls", "list", "--version", HOSTILE]),
    "batch submit": partial(given_argv, argv=["batch", "submit", "rows.csv", "--out", "out", "--model", HOSTILE]),
    "dead-letters list": partial(dead_letters, argv=["list"]),
    "dead-letters replay": partial(dead_letters, argv=["replay", HOSTILE, "other", "--dry-run"]),
    "dead-letters show": partial(dead_letters, argv=["show", HOSTILE]),
    "doctor": partial(doctor, argv=["doctor"]),
    "down": partial(from_state_dir, argv=["down"]),
    **{
        f"rollout {argv[0]}": partial(rollouts, argv=argv)
        for argv in (
            ["plan", HOSTILE, "v2"],
            ["start", HOSTILE, "v2"],
            ["apply", "-f", "{folder}/rollout.yaml"],
            ["list"],
            ["status", HOSTILE],
            ["pause", HOSTILE],
            ["resume", HOSTILE],
            ["promote", HOSTILE],
            ["abort", HOSTILE, "--reason", HOSTILE],
            ["history", HOSTILE],
            ["explain", HOSTILE],
            ["wait", HOSTILE],
        )
    },
    "k8s render": partial(given_argv, argv=["k8s", "render", "--out", "{folder}", "--version", HOSTILE]),
    "init": starter,
    "keys create": partial(given_argv, argv=["keys", "create", "--name", HOSTILE, "--file", "{folder}/keys"]),
    "keys list": partial(given_argv, argv=["keys", "list", "--file", HOSTILE]),
    "keys revoke": revoke,
    "keys webhook-secret": partial(
        given_argv, argv=["keys", "webhook-secret", "shop", "--file", "{folder}/keys-" + HOSTILE.replace("/", "")]
    ),
    "models add": partial(given_argv, argv=["models", "add", HOSTILE, "--name", "iris"]),
    "models build-samples": build_samples,
    "models default": partial(given_argv, argv=["models", "default", HOSTILE]),
    "models quantize": partial(given_argv, argv=["models", "quantize", HOSTILE, "--data", "rows.csv"]),
    "models retire": partial(given_argv, argv=["models", "retire", HOSTILE]),
    "models serve": partial(given_argv, argv=["models", "serve", HOSTILE]),
    "models show": partial(given_argv, argv=["models", "show", HOSTILE]),
    "models list": partial(models, argv=["list"]),
    "models verify": partial(models, argv=["verify"]),
    "replay": partial(given_argv, argv=["replay", HOSTILE, "--to", "v2"]),
    "reroute": partial(given_argv, argv=["reroute", HOSTILE, "v1", "--to", "v2"]),
    "restart": partial(from_state_dir, argv=["restart"]),
    "scale simulate": partial(given_argv, argv=["scale", "simulate", "--scaled-object", HOSTILE]),
    "shadow": partial(given_argv, argv=["shadow", HOSTILE, "v1"]),
    "status": partial(status, argv=["status"]),
    "topics create": partial(topics, argv=["create"]),
    "topics list": partial(topics, argv=["list"]),
    "up": partial(no_models, argv=["up", "--detach"]),
}
# The same for programs, by the command.
JSON_SCENARIOS: dict[str, Arrange] = {
    "doctor": partial(doctor, argv=["doctor", "--json"]),
    "models list": partial(models, argv=["list", "--json"]),
    "rollout history": partial(rollouts, argv=["history", HOSTILE, "--json"]),
    "rollout list": partial(rollouts, argv=["list", "--json"]),
    "rollout plan": partial(rollouts, argv=["plan", HOSTILE, "v2", "--json"]),
    "rollout start": partial(rollouts, argv=["start", HOSTILE, "v2", "--json"]),
    "rollout status": partial(rollouts, argv=["status", HOSTILE, "--json"]),
    "status": partial(status, argv=["status", "--json"]),
}
# They print numbers or a password of their own, or write logs alone (the last test).
NOTHING_FOREIGN = {
    "scale plan",
    "rollout schema",
    "k8s store-secret",
    "api",
    "router",
    "worker",
    "webhooks",
    "dashboard",
}


def commands() -> Iterator[str]:
    """Every command, as it is typed."""
    root: Any = typer.main.get_command(main_module.command_line())
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        yield from (f"{name} {other}" for other in inner) if inner else (name,)


def parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for each in getattr(command, "commands", {}).values():
        yield from parameters(each)


def test_no_option_takes_a_number_that_is_infinite_or_nan() -> None:
    root: Any = typer.main.get_command(main_module.command_line())
    context = root.make_context("inferlane", ["up"])
    with context.scope():
        # Not the root's own: those that install a completion are Typer's, and would.
        for parameter in chain.from_iterable(map(parameters, root.commands.values())):
            for number in (math.inf, -math.inf, math.nan):
                with pytest.raises(typer.BadParameter, match=f"{number} is no finite number"):
                    parameter.callback(context, parameter, number)
    with pytest.raises(typer.BadParameter, match="inf is no finite number"):
        root.main(["batch", "submit", "rows.csv", "--out", "o", "--missing", "inf"], standalone_mode=False)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("k8s render", "--service-time"),
        ("k8s render", "--target-wait"),
        ("k8s render", "--batch-overhead"),
        ("k8s render", "--rows"),
        ("scale plan", "--rate"),
        ("scale plan", "--skew"),
        ("scale simulate", "--duration"),
        ("scale simulate", "--start-time"),
        ("models add export.onnx --name net", "--timeout"),
        ("models quantize net/v1 --data rows.csv", "--timeout"),
        ("models retire net/v1", "--within"),
        ("batch submit rows.csv --out out.jsonl", "--stall-timeout-s"),
    ],
)
def test_a_number_that_no_computation_could_hold_is_out_of_range(command: str, option: str) -> None:
    root: Any = typer.main.get_command(main_module.command_line())
    with pytest.raises(typer.BadParameter, match="less than or equal to"):
        root.main([*command.split(), option, "1e300"], standalone_mode=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    ("argv", "mark"),
    [(["doctor"], "+ well: "), (["doctor", "--json"], '"checks":['), (["batch", "submit", "--help"], "...")],
    ids=("doctor", "doctor --json", "help"),
)
def test_a_command_writes_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str, argv: list[str], mark: str
) -> None:
    import json  # noqa: PLC0415 - as below

    arrange = partial(doctor, argv=argv) if argv[0] == "doctor" else partial(given_argv, argv=argv)
    monkeypatch.setattr(sys, "argv", ["inferlane", *arrange(monkeypatch, tmp_path)])
    written = io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", written)
    with suppress(SystemExit):
        main_module.main()

    text = written.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]  # of the buffer above
    assert mark in text
    assert "--json" not in argv or json.loads(text)


@pytest.mark.parametrize(
    ("argv", "text"), [(["models", "add", "--help"], "[[columns]]"), (["k8s", "render", "--help"], "in [runtime]")]
)
def test_help_is_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["inferlane", *argv])
    monkeypatch.setattr(os, "nice", lambda _increment: 0)
    with suppress(SystemExit):
        main_module.main()
    assert text in " ".join(capsys.readouterr().out.replace("│", "").split())


def test_json_needs_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ConfigurationError, match="standard output is closed"):
        write_json({})


def test_every_command_has_a_case_here() -> None:
    assert set(commands()) == SCENARIOS.keys() | NOTHING_FOREIGN


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[Arrange], tuple[str, str]]:
    """Runs a command as it is typed; returns what it wrote to standard output and standard error."""
    write_tiny_store(tmp_path / "models")
    monkeypatch.setenv("INFERLANE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("INFERLANE_DEFAULT_MODEL", "tiny")
    monkeypatch.setenv("INFERLANE_STATE_DIR", str(tmp_path / "state"))
    # The niceness of `models` would stay with the process that runs the tests.
    monkeypatch.setattr(os, "nice", lambda _increment: 0)

    def ran(arrange: Arrange) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["inferlane", *arrange(monkeypatch, tmp_path)])
        with suppress(SystemExit):
            main_module.main()
        return capsys.readouterr()

    return ran


@pytest.mark.parametrize("command", SCENARIOS)
def test_no_command_lets_what_others_wrote_steer_the_terminal(
    command: str, run: Callable[[Arrange], tuple[str, str]]
) -> None:
    """Guards `PlainConsole`: with rich's own the escape sequences arrive, and `[red]` is gone (seen to fail so)."""
    printed = "".join(run(SCENARIOS[command]))
    # A narrow terminal breaks lines anywhere.
    assert "[red]x[nope]:skull:" in "".join(printed.split())
    assert STEERING.findall(printed) == []


@pytest.mark.parametrize("command", JSON_SCENARIOS)
def test_json_of_a_command_is_one_line_that_programs_read(
    command: str, run: Callable[[Arrange], tuple[str, str]]
) -> None:
    import json  # noqa: PLC0415 - what reads it back

    written, said = run(JSON_SCENARIOS[command])
    (line,) = written.splitlines()
    assert HOSTILE in _strings(json.loads(line))
    assert STEERING.findall(written + said) == []


def _strings(value: Any) -> Iterator[str]:
    """Every key and every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def test_json_lines_steer_nothing_and_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    import json  # noqa: PLC0415 - what reads it back

    value = {"detail": HOSTILE + "\U0001f600é"}
    write_json(value)
    printed = capsys.readouterr().out
    assert STEERING.findall(printed) == []
    assert json.loads(printed) == value


@given(st.text())
def test_printable_text_steers_nothing_and_keeps_the_rest(text: str) -> None:
    shown = printable(text)
    assert STEERING.findall(shown) == []
    assert shown == text or not text.isprintable()


def test_styles_are_ours_alone() -> None:
    console = PlainConsole(force_terminal=True, color_system="standard", width=200)
    with console.capture() as captured:
        console.print(styled(("ours", "bold red"), f" {HOSTILE}"))
    shown = captured.get()
    assert re.findall("\x1b[^m]*m", shown) == ["\x1b[1;31m", "\x1b[0m"]
    assert "[red]x[nope]" in shown


def test_nothing_in_the_commands_writes_past_the_console() -> None:
    """So that the next command is safe too."""
    offences = []
    for path in CLI.glob("*.py"):
        if path.name == "console.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            writes = name in {"print", "Console", "typer.secho", "click.echo", "sys.stdout.write", "sys.stderr.write"}
            # `run_work` keeps what libraries log meanwhile off the terminal.
            writes |= name == "asyncio.run"
            # A key or a Secret that was just made is ours, and goes out alone.
            is_secret = name == "typer.echo" and ast.unparse(node.args[0]).partition("(")[0] in {
                "key",
                "dumped",
                "written",
            }  # type: ignore[attr-defined]  # a call
            if writes or (name == "typer.echo" and not is_secret) or "markup" in name:
                offences.append(f"{path.name}:{node.lineno} {name}")  # type: ignore[attr-defined]  # calls have lines
    assert offences == []


def test_a_log_for_people_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    import logging  # noqa: PLC0415 - the libraries' side

    import structlog  # noqa: PLC0415 - ours

    before = list(logging.getLogger().handlers)
    configure_logs(load_settings(log_format="console").stack, service="test")
    try:
        structlog.get_logger("ours").warning(f"event {HOSTILE}", name=HOSTILE, parts=[HOSTILE], raw=HOSTILE.encode())
        try:
            float(HOSTILE)
        except ValueError:
            structlog.get_logger("ours").exception("failed")
            logging.getLogger("library").exception("failed %s", HOSTILE)
    finally:
        logging.getLogger().handlers[:] = before
        structlog.reset_defaults()
    printed = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().err)
    assert "[red]x[nope]" in printed
    assert STEERING.findall(printed) == []

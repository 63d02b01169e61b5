"""What `doctor` says: what is known, and no remedy that mends nothing."""

import ast
import asyncio
import json
import re
import socket
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from control_plane.cli import doctor as doctor_command
from control_plane.cli.doctor import DoctorCheck, _checks, _same_release
from control_plane.cli.main import command_line
from control_plane.local import doctor_checks as checks
from control_plane.local.hop_progress import own_word
from control_plane.local.readiness import failing_checks, is_ready
from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.api_address import ApiAddress
from inferlane.runtime.ops import OpsApp
from inferlane.runtime.runfile import ProcessRecord, RunRecord
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import free_port

RECORD = RunRecord(pid=1, create_time_s=1.0, phase="ready", api_url="", environment={}, release="0.0.1")


@pytest.mark.parametrize("module", [checks])
def test_no_check_recommends_a_restart_or_asks_a_question(module: object) -> None:
    """A router that stood at a record it could not read was to be restarted, which mended nothing."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]  # modules have it
    said = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in said if re.search(r"\brestart (it|the)\b|[Ii]s it running|\?$", text)] == []


async def test_who_listens_nowhere_is_said_to_be_so() -> None:
    with pytest.raises(UnavailableError, match="nothing listens there"):
        await is_ready(f"http://127.0.0.1:{free_port()}")


async def test_an_answer_of_another_server_is_no_answer() -> None:
    """`inferlane status` ended in a traceback."""
    page = b"<html>another server</html>"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(page)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + page)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnavailableError, match="other JSON than checks"):
            await failing_checks(f"http://127.0.0.1:{port}")


async def test_a_hop_is_asked_what_is_wrong_with_it() -> None:
    from inferlane.runtime.http.server import serve_http  # noqa: PLC0415 - a server for this one

    app = OpsApp(live=dict, ready=lambda: {"requests_lane": False, "store": True})
    settings = load_settings()
    async with serve_http(
        app, settings.ports, max_body_bytes=settings.kafka.max_body_bytes, host="127.0.0.1", port=0
    ) as port:
        assert "not well: requests_lane" in await own_word("router", f"http://127.0.0.1:{port}")
    assert "does not answer" in await own_word("router", f"http://127.0.0.1:{free_port()}")
    assert "/readyz of the router" in await own_word("router", "")


async def test_an_api_behind_a_proxy_and_below_a_path_is_asked_as_clients_ask_it() -> None:
    """Its path was left out, and chunks of the proxy were read as JSON."""
    asked: list[bytes] = []
    body = b'{"status":"failing","checks":{"store":"failing"}}'
    head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/ml"
        with pytest.raises(UnavailableError, match=r"/ml/readyz: failing store\. Its log says why\.$"):
            await checks.check_api(ApiAddress(load_settings().api, load_settings().client, url))
    assert asked[0].startswith(b"GET /ml/readyz ")


async def test_the_holder_of_the_apis_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        listener.listen(0)
        with pytest.raises(UnavailableError) as refused:
            await checks.check_api(ApiAddress(load_settings().api, load_settings().client, f"http://127.0.0.1:{port}"))
    assert "is held by pid" in str(refused.value)


@pytest.mark.parametrize(("version", "is_old"), [("6.2.14", True), ("7.0.0", False), ("9.0.1", False)])
def test_a_store_that_does_not_know_the_commands_is_told_apart(version: str, is_old: bool) -> None:
    if is_old:
        with pytest.raises(ConfigurationError, match=r"7\.0 or newer"):
            checks._refuse_old(version)
    else:
        checks._refuse_old(version)


async def test_a_stack_of_another_release_is_told_apart() -> None:
    with pytest.raises(ConfigurationError, match=r"started by inferlane 0\.0\.1"):
        await _same_release(RECORD)


async def test_a_state_directory_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        await checks.check_state_dir(load_settings(state_dir=tmp_path / "file").stack)
    assert "free" in await checks.check_state_dir(load_settings(state_dir=tmp_path).stack)


async def test_each_of_several_api_processes_is_asked(tmp_path: Path) -> None:
    """A process that stood still was not seen where another one answered on the port that they share."""
    entries = [process(f"api-{number}", ops_url=f"http://127.0.0.1:{free_port()}") for number in (1, 2)]
    record = msgspec.structs.replace(RECORD, processes=(process("api", ops_url="http://127.0.0.1:1"), *entries))
    settings = load_settings(state_dir=tmp_path)
    listed = _checks(settings, (), ApiAddress(settings.api, settings.client), record)
    named = {check.name: check for check in listed}
    assert [name for name in named if name.startswith("api")] == ["api-1", "api-2", "api"]
    with pytest.raises(UnavailableError, match="nothing listens there"):
        await named["api-2"].see()


def process(name: str, *, ops_url: str) -> ProcessRecord:
    return ProcessRecord(
        name=name, pool="api", pid=1, create_time_s=1.0, state="ready", restarts=0, port=1, ops_url=ops_url, log=""
    )


def test_doctor_for_programs_has_a_state_of_each_check_and_the_same_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fails() -> str:
        raise UnavailableError("no broker at a:1")

    async def passes() -> str:
        return "seen"

    checks_of_test = [
        DoctorCheck(name="broker", see=fails),
        DoctorCheck(name="topics", needs=frozenset({"broker"}), see=passes),
        DoctorCheck(name="store", see=passes),
    ]
    monkeypatch.setattr(doctor_command, "_checks", lambda *_: checks_of_test)
    write_tiny_store(tmp_path / "models")
    environment = {
        "INFERLANE_MODELS_DIR": str(tmp_path / "models"),
        "INFERLANE_DEFAULT_MODEL": "tiny",
        "INFERLANE_STATE_DIR": str(tmp_path / "state"),
    }
    outcome = CliRunner().invoke(command_line(), ["doctor", "--json"], env=environment)
    said = json.loads(outcome.stdout)
    assert (outcome.exit_code, said["is_well"]) == (1, False)
    assert [(check["name"], check["state"]) for check in said["checks"]] == [
        ("settings", "well"),
        ("models", "well"),
        ("broker", "broken"),
        ("topics", "skipped"),
        ("store", "well"),
    ]
    assert [check["detail"] for check in said["checks"]][2:] == ["no broker at a:1", "it needs broker", "seen"]
    del checks_of_test[0]
    well = CliRunner().invoke(command_line(), ["doctor", "--json"], env=environment)
    assert (well.exit_code, json.loads(well.stdout)["is_well"]) == (0, True)

"""`inferlane models add` as a person runs it: what it prints, and its exit codes."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from control_plane import catalog_changes
from control_plane.catalog_changes import CatalogState, check_told_apart
from control_plane.cli import catalog_commands, serving
from control_plane.local.probe import Target
from inferlane.contracts.catalog_entry import CatalogEntry, VersionState, encode_entry
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import ConfigurationError
from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.catalog_table import CatalogTable
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.ops import OpsApp
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.runfile import RunFile, RunRecord
from inferlane.runtime.settings import StackSettings
from producer_api.http.auth import KeyAuthentication, KeyRing
from tests.support import graphs
from tests.support.fakes.entries import make_entry
from tests.support.fakes.records import make_catalog


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "control_plane", "models", *arguments]
    repository = Path(__file__).parents[3]
    environment |= {"PYTHONPATH": str(repository)}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)


def test_what_was_seen_is_printed_with_a_call_that_fits(tmp_path: Path) -> None:
    (tmp_path / "export.onnx").write_bytes(graphs.zip_mapped(labels=["stays", "leaves", "waits"]).SerializeToString())
    # A folder of the person's own that is called like ours.
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise SystemExit('not ours')")
    arguments = ("add", "export.onnx", "--name", "churn", "--models-dir", "store")

    first = run(*arguments, cwd=tmp_path)
    second = run(*arguments, cwd=tmp_path, INFERLANE_API_KEY="inferlane_k", INFERLANE_API_SSL_CAFILE="my ca.pem")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    for seen in ("churn v1", "ZipMap removed", "stays, leaves, waits", "[rows, 3]", "INFERLANE_DEFAULT_MODEL=churn"):
        assert seen in first.stdout
    bodies = [json.loads(re.findall(r"-d '(.*)'", printed)[0]) for printed in (first.stdout, second.stdout)]
    assert bodies == [
        {"model": "churn", "instances": [[0.0, 0.0, 0.0]]},
        {"model": "churn", "version": "v2", "instances": [[0.0, 0.0, 0.0]]},
    ]
    # A call without the key would be refused.
    assert """curl -s --cacert 'my ca.pem' -H "Authorization: Bearer $INFERLANE_API_KEY" http""" in second.stdout
    assert "Authorization" not in first.stdout
    assert "inferlane_k" not in second.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "seen"),
    [
        (("add", "nowhere.onnx", "--name", "churn"), 1, "error (configuration_error) there is no file or folder"),
        (("add", "nowhere.onnx", "--name", "a.b"), 1, "a dot may stand in versions alone"),
        (("add", "nowhere.onnx"), 2, "--name"),
        (("add", "--name", "churn"), 2, "SOURCE"),
    ],
)
def test_a_refusal_ends_with_1_and_a_wrong_command_with_2(
    tmp_path: Path, arguments: tuple[str, ...], code: int, seen: str
) -> None:
    ended = run(*arguments, cwd=tmp_path)

    assert ended.returncode == code
    assert seen in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_added_where_the_running_stack_refuses_the_key(tmp_path: Path) -> None:
    """The version was served, the command failed all the same, and with a key it added a second one."""
    (tmp_path / "export.onnx").write_bytes(graphs.zip_mapped(labels=["stays", "leaves", "waits"]).SerializeToString())
    keys = tmp_path / "keys.toml"
    create_key(keys, name="shop", scopes=[Scope.PREDICT])
    app = KeyAuthentication(OpsApp(live=dict, ready=dict), KeyRing(keys, clock=SystemClock()))
    async with serve_http(app, load_settings().ports, max_body_bytes=1024, host="127.0.0.1", port=0) as port:
        me = psutil.Process()
        environment = {"INFERLANE_API_PORT": str(port)}
        record = RunRecord(
            pid=me.pid, create_time_s=me.create_time(), phase="ready", api_url="", environment=environment
        )
        RunFile(tmp_path / "state").write(record)
        ended = await asyncio.to_thread(
            run,
            *("add", "export.onnx", "--name", "churn", "--models-dir", "store"),
            cwd=tmp_path,
            INFERLANE_STATE_DIR=str(tmp_path / "state"),
            INFERLANE_API_KEY="inferlane_wrong",
        )
    assert ended.returncode == 1
    assert "wants a key with the scope predict" in ended.stderr
    assert not (tmp_path / "store").exists()


def state_of(*entries: CatalogEntry) -> CatalogState:
    table = CatalogTable()
    for entry in entries:
        table.put(entry.key, encode_entry(entry))
    return CatalogState(table=table, catalog=make_catalog("v1"))


async def test_a_version_that_could_not_be_told_from_one_that_is_served_is_not_put_into_the_catalogue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was written, never served, and the store alone said why."""
    settings = load_settings()

    async def read(*_: object) -> CatalogState:
        return state_of(make_entry("fraud", "v1"), make_entry("churn", "v1", state=VersionState.RETIRED))

    monkeypatch.setattr(catalog_changes, "read_state", read)
    for name, other in (("IRIS", "iris v1"), ("Fraud", "fraud v1")):
        with pytest.raises(ConfigurationError, match=f"{name} v1 could not be told from {other}, which is in"):
            await catalog_changes.serve_version(settings.kafka, settings.stack, settings.webhooks, name, "v1")
    for name in ("iris", "CHURN", "other"):
        check_told_apart(await read(), name, "v1")


def test_a_version_of_a_store_of_ones_own_is_compared_with_those_of_the_stack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = RunRecord(
        pid=1, create_time_s=1.0, phase="ready", api_url="", environment={"INFERLANE_MODELS_DIR": "/srv/models"}
    )
    read_from: list[Path] = []

    async def read(_: object, stack: StackSettings) -> CatalogState:
        read_from.append(stack.models_dir)
        return state_of()

    monkeypatch.setattr(serving, "reach", lambda: (load_settings(), record))
    monkeypatch.setattr(catalog_changes, "read_state", read)
    target = Target(model="IRIS", version="v1", signature=Signature(inputs=(), outputs=()))
    with pytest.raises(ConfigurationError, match="IRIS v1 could not be told from iris v1"):
        serving.serve_here(target, tmp_path, within_s=1.0)
    assert read_from == [Path("/srv/models")]


def test_the_store_of_the_current_folder_goes_before_that_of_the_stack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    of_stack = load_settings(models_dir=Path("/srv/models"))
    monkeypatch.setattr(catalog_commands, "reach", lambda: (of_stack, None))
    assert catalog_commands._reached(None)[0].stack.models_dir == Path("/srv/models")
    Path(".inferlane/models").mkdir(parents=True)
    assert catalog_commands._reached(None)[0].stack.models_dir == Path(".inferlane/models")
    assert catalog_commands._reached(Path("named"))[0].stack.models_dir == Path("named")

"""`inferlane models add` as a person runs it: what it prints, and its exit codes."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.ops import OpsApp
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.runfile import RunFile, RunRecord
from producer_api.http.auth import KeyAuthentication, KeyRing
from tests.support import graphs


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

"""The scripts at an API with keys: what a person is told whose key is missing or does not suffice."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.ops import OpsApp
from inferlane.runtime.retry import SystemClock
from producer_api.http.auth import KeyAuthentication, KeyRing

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
LIMIT_S = 60


async def run_script(name: str, url: str, *, key: str) -> tuple[int, str]:
    """Run the script against that API; return its exit status and all that it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPTS / name), "--url", url,
        env={**os.environ, "INFERLANE_API_KEY": key},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize("script", ["demo.py", "load_test.py"])
@pytest.mark.parametrize(("key", "said"), [("", "has no key"), ("inferlane_other\n", "not known here")])
async def test_a_refused_key_is_told_by_the_variable_that_it_comes_from(
    tmp_path: Path, script: str, key: str, said: str
) -> None:
    """The only remedy was a header, which no script takes; an empty variable, or a line end in it, was a traceback."""
    file = tmp_path / "keys.toml"
    create_key(file, name="shop", scopes=[Scope.ADMIN])
    app = KeyAuthentication(OpsApp(live=dict, ready=dict), KeyRing(file, clock=SystemClock()))
    async with serve_http(app, load_settings().ports, max_body_bytes=1024, host="127.0.0.1", port=0) as port:
        status, output = await run_script(script, f"http://127.0.0.1:{port}", key=key)
    assert status == 1, output
    assert said in output
    assert output.rstrip().endswith(
        "the key of this script is that of INFERLANE_API_KEY; `inferlane keys create` makes one"
    ), output

"""A stack in a folder of its own, on ports of its own, with the models that a test writes there."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.stack_ports import free_stack_ports

_TIMEOUT_S = 300
_POLL_S = 0.1


class FolderStack:
    """The commands and the API of a stack whose models are in `folder/models`, with `tiny` as the default."""

    def __init__(self, folder: Path, **settings: str) -> None:
        ports = free_stack_ports()
        self.url = f"http://127.0.0.1:{ports.api}"
        self.environment = ports.environment(
            INFERLANE_STATE_DIR=str(folder / "state"),
            INFERLANE_MODELS_DIR=str(folder / "models"),
            **({"INFERLANE_DEFAULT_MODEL": "tiny"} | settings),
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "control_plane", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )

    def call(self, path: str, body: Any = None) -> tuple[int, Any]:
        raw = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, raw, {"content-type": "application/json"})  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - our own server
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def eventually(self, is_so: Callable[[], bool], *, within_s: float = 120.0) -> None:
        """Return when it is so; fail the test if it is not within the time."""
        deadline_s = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < deadline_s, f"not so within {within_s} s"
            time.sleep(_POLL_S)

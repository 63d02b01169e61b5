"""A whole stack that wants keys, for the tests that look at one from outside."""

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from inferlane.runtime.runfile import ProcessRecord, RunFile
from tests.support.stack_ports import free_stack_ports

REPOSITORY = Path(__file__).parents[2]
_START_TIMEOUT_S = 900
_CALL_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class KeyedStack:
    """Where the stack is, and a key that may do everything.

    `folder` is laid out as a clone, so that a configuration of the repository finds `.inferlane` where it says.
    """

    folder: Path
    api_port: int
    grpc_port: int
    dashboard_port: int
    broker_port: int
    admin_key: str
    environment: Mapping[str, str] = field(repr=False)
    # The authority of the API's certificate; None: the API has no TLS.
    authority: Path | None = None

    @property
    def api_url(self) -> str:
        return f"{'http' if self.authority is None else 'https'}://127.0.0.1:{self.api_port}"

    def trust(self) -> ssl.SSLContext | None:
        """What a connection to the API is made with."""
        return None if self.authority is None else ssl.create_default_context(cafile=self.authority)

    @property
    def page_url(self) -> str:
        return f"http://localhost:{self.dashboard_port}/"

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Return the status and the answer, whatever the status is; header names take `_` for `-`."""
        named = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        try:
            return self._ask(path, json.dumps(body).encode(), named)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def call(self, path: str, body: Any = None) -> Any:
        """The answer of a call that must be taken: GET, or POST where there is a body."""
        raw = None if body is None else json.dumps(body).encode()
        status, answer = self._ask(path, raw, {"content-type": "application/json"})
        assert status == HTTPStatus.OK, answer
        return answer

    def inferlane(self, *arguments: str) -> str:
        """What a command prints that must succeed."""
        return _inferlane(self.environment, *arguments)

    def process(self, name: str) -> ProcessRecord:
        record = RunFile(self.folder / ".inferlane").read()
        assert record is not None
        return next(process for process in record.processes if process.name == name)

    def _ask(self, path: str, raw: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {self.admin_key}"} | headers
        request = urllib.request.Request(self.api_url + path, raw, headers)  # noqa: S310 - our own server
        with urllib.request.urlopen(request, timeout=_CALL_TIMEOUT_S, context=self.trust()) as answer:  # noqa: S310 - our own server
            return answer.status, json.load(answer)


def _inferlane(environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "control_plane", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_START_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@contextmanager
def running_stack(
    folder: Path, *, models_dir: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[KeyedStack]:
    """Start one with its state in `folder/.inferlane`, and stop it at the end of the block.

    It serves the sample models, or those of `models_dir`; `settings` are more of its environment.
    """
    ports = free_stack_ports()
    environment = ports.environment(
        INFERLANE_STATE_DIR=str(folder / ".inferlane"),
        INFERLANE_MODELS_DIR=str(models_dir or REPOSITORY / ".inferlane" / "models"),
        INFERLANE_API_KEYS_FILE=str(folder / "keys.toml"),
        **(settings or {}),
    )
    inferlane = partial(_inferlane, environment)
    admin_key = inferlane("keys", "create", "--name", "admin", "--scope", "admin")
    environment["INFERLANE_API_KEY"] = inferlane("keys", "create", "--name", "dashboard", "--scope", "predict")
    try:
        inferlane("up", "--detach")
        yield KeyedStack(
            folder=folder,
            api_port=ports.api,
            grpc_port=ports.grpc,
            dashboard_port=ports.dashboard,
            broker_port=ports.broker,
            admin_key=admin_key,
            environment=environment,
            authority=folder / "ca.pem" if "INFERLANE_API_SSL_CERTFILE" in environment else None,
        )
    finally:
        inferlane("down")

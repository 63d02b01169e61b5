"""One running stack for the whole tier, started as the README says, in a copy of the tree."""

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.keyed_stack import KeyedStack
from tests.support.protocol_stack import protocol_stack
from tests.support.stack_ports import free_stack_ports

REPOSITORY = Path(__file__).parents[2]
_START_TIMEOUT_S = 2_400
# One pool is scaled, which no other test asks anything of; at DEBUG the supervisor logs each look at its lag.
_SCALED = {
    "INFERLANE_AUTOSCALE": "1",
    "INFERLANE_SCALED_OBJECTS": "tests/e2e/scaled_objects.yaml",
    "INFERLANE_HPA_SYNC_S": "1",
    "INFERLANE_LOG_LEVEL": "DEBUG",
}
_STOP_TIMEOUT_S = 180
_HTTP_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where the running stack is and how to speak to it."""

    folder: Path
    api_port: int
    grpc_port: int
    broker_port: int
    store_port: int
    dashboard_port: int
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def models_dir(self) -> Path:
        return self.folder / ".inferlane" / "models"

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.broker_port}"

    def call(
        self, path: str, body: Any = None, *, raw: bytes | None = None, method: str | None = None, **headers: str
    ) -> Answer:
        """GET, or POST when there is a body, unless told the method; header names take `_` for `-`."""
        payload = raw if raw is not None else None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if payload is not None:
            named.setdefault("content-type", "application/json")
        request = urllib.request.Request(self.url + path, data=payload, headers=named, method=method)  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as response:  # noqa: S310 - as above
                return Answer(status=response.status, headers=response.headers, raw=response.read())
        except urllib.error.HTTPError as error:
            return Answer(status=error.code, headers=error.headers, raw=error.read())

    def predict(self, row: list[Any], **fields: Any) -> Any:
        answer = self.call("/v1/models/predict", {"instances": [row], "timeout_s": 60, **fields})
        assert answer.status == 200, answer.raw
        return answer.body

    def run(self, *argv: str, timeout_s: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would, in the folder of the stack."""
        return subprocess.run(
            argv,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def inferlane(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return self.run(".venv/bin/inferlane", *arguments, timeout_s=timeout_s)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("clone")
    _copy_tree(folder)
    ports = free_stack_ports()
    # A machine that stands still for longer than the default must not look like a broker that is away.
    environment = ports.environment(INFERLANE_KAFKA_REQUEST_TIMEOUT_MS="30000")
    if any(item.path.name == "test_autoscaling.py" for item in request.session.items):
        environment |= _SCALED
    running = Stack(
        folder=folder,
        api_port=ports.api,
        grpc_port=ports.grpc,
        broker_port=ports.broker,
        store_port=ports.store,
        dashboard_port=ports.dashboard,
        environment=environment,
    )
    try:
        started = running.run("./start.sh", timeout_s=_START_TIMEOUT_S)
        assert started.returncode == 0, started.stdout + started.stderr
        yield running
    finally:
        stopped = running.run("./stop.sh", timeout_s=_STOP_TIMEOUT_S)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    for port in (ports.api, ports.broker, ports.store, ports.first_ops, ports.dashboard):
        with socket.create_server(("127.0.0.1", port)):
            pass  # Nothing is left that listens.


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedStack]:
    """A stack that wants keys, with the samples and a model of two inputs; its ports have TLS (`ca.pem`), and two API
    processes share them."""
    with protocol_stack(tmp_path_factory.mktemp("keyed")) as stack:
        yield stack


def _copy_tree(folder: Path) -> None:
    """What a clone has, and this tree's environment and models so that the tier does not make them again."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    # Brought up to date here: what `start.sh` finds current, it leaves alone.
    subprocess.run([".ci/setup-venv.sh", "requirements-dev.lock"], cwd=REPOSITORY, check=True)
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    built = REPOSITORY / ".inferlane" / "models"
    if built.is_dir():
        shutil.copytree(built, folder / ".inferlane" / "models")

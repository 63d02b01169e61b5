"""A real stack under load and a real Prometheus that scrapes it by the committed configuration."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observability._load import Load
from tests.observability._prometheus import Prometheus

REPOSITORY = Path(__file__).parents[2]
_UP_TIMEOUT_S = 600
_PROMETHEUS_READY_S = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out as a clone, so that the committed configuration finds the targets where it says."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "dashboards" / "prometheus", folder / "dashboards" / "prometheus")
    return folder


@pytest.fixture(scope="session")
def stack(folder: Path) -> Iterator[Load]:
    api_port, broker_port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERLANE_")} | {
        "INFERLANE_STATE_DIR": str(folder / ".inferlane"),
        "INFERLANE_MODELS_DIR": str(REPOSITORY / ".inferlane" / "models"),
        "INFERLANE_API_PORT": str(api_port),
        "INFERLANE_BROKER_PORT": str(broker_port),
        "INFERLANE_STORE_PORT": str(free_port()),
        "INFERLANE_FIRST_OPS_PORT": str(free_port()),
        "INFERLANE_DASHBOARD_PORT": "0",
    }

    def inferlane(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "inferlane", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_UP_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        inferlane("up", "--detach")
        with Load(api_port=api_port, broker_port=broker_port) as load:
            yield load
    finally:
        inferlane("down")


@pytest.fixture(scope="session")
def prometheus(stack: Load, folder: Path) -> Iterator[Prometheus]:
    assert stack.api_port
    port = free_port()
    argv = [
        "prometheus",
        f"--config.file={folder / 'dashboards' / 'prometheus' / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with subprocess.Popen(argv) as process:
        try:
            found = Prometheus(port)
            deadline_s = time.monotonic() + _PROMETHEUS_READY_S
            while not found.is_ready():
                assert process.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.2)
            yield found
        finally:
            process.terminate()
            process.wait(_PROMETHEUS_READY_S)

"""The stack under load and a real Prometheus that scrapes it by the committed configuration."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.observability._load import Load
from tests.observability._prometheus import Prometheus
from tests.support.brokers.processes import free_ports, wait_until
from tests.support.keyed_stack import REPOSITORY, KeyedStack

_READY_WITHIN_S = 60


@pytest.fixture(scope="session")
def prometheus(keyed_stack: KeyedStack) -> Iterator[Prometheus]:
    folder = keyed_stack.folder
    shutil.copytree(REPOSITORY / "dashboards" / "prometheus", folder / "dashboards" / "prometheus")
    (port,) = free_ports(1)
    argv = [
        "prometheus",
        f"--config.file={folder / 'dashboards' / 'prometheus' / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with Load(keyed_stack), subprocess.Popen(argv) as process:
        try:
            found = Prometheus(port)
            wait_until(found.is_ready, within_s=_READY_WITHIN_S, what="Prometheus is ready")
            yield found
        finally:
            process.terminate()
            process.wait(_READY_WITHIN_S)

"""KServe's client over gRPC, unmodified. It pins protobuf below ours, so it runs in an environment of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.keyed_stack import REPOSITORY
from tests.support.protocol_stack import protocol_stack

PYTHON = REPOSITORY / ".inferlane" / "kserve" / "bin" / "python"


@pytest.mark.timeout(900)
def test_kserves_client_gets_the_answers_of_every_model(tmp_path: Path) -> None:
    assert PYTHON.exists(), "run .ci/kserve.sh, which makes the environment"
    with protocol_stack(tmp_path) as stack:
        done = subprocess.run(
            [
                *(PYTHON, Path(__file__).with_name("ask.py")),
                *(f"localhost:{stack.grpc_port}", stack.folder / "ca.pem", stack.admin_key),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "live": True,
        "ready": True,
        "iris is ready": True,
        "iris": [0, 2],
        "digits": 3,
        "pair": [[10.0, 11.0, 12.0], [23.0, 24.0, 25.0]],
    }

"""The API's own document is what the API does: every check of schemathesis, on a whole stack that wants keys."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.keyed_stack import KeyedStack, running_stack

pytestmark = pytest.mark.timeout(1_800)

_EXAMPLES = 20


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedStack]:
    with running_stack(tmp_path_factory.mktemp("openapi")) as stack:
        yield stack


def test_the_document_agrees_with_every_answer(keyed: KeyedStack) -> None:
    """Guards `_complete`, `HeadAndOptions` and `predict_bodies`; fails, for one, when an undocumented 404 comes."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://127.0.0.1:{keyed.api_port}/openapi.json",
            "--checks=all",
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={_EXAMPLES}",
            "--seed=1",
            "--request-timeout=60",
            "--continue-on-failure",
            f"--header=Authorization: Bearer {keyed.admin_key}",
        ],
        capture_output=True,
        text=True,
        cwd=keyed.folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("openapi_hooks.py"))},
        timeout=1_200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]

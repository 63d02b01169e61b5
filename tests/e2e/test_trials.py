"""A version that fails every request of a client, in a running stack: with a fallback no client sees it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.fakes.stores import write_tiny_store
from tests.support.fakes.zoo import add_version, save
from tests.support.folder_stack import FolderStack

REQUESTS = 200
# In range for the check of a worker that starts, out of range for what the client sends.
_TABLE = np.linspace(0, 1, 8, dtype=np.float32)
_OUT_OF_RANGE = [[99.0, 99.0, 99.0]]


def _write_failing(path: Path) -> None:
    """A model that looks its inputs up in a table, and fails where they are not in it."""
    nodes = [
        helper.make_node("Cast", ["input"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["probabilities"]),
    ]
    save(path, nodes, initializers=[numpy_helper.from_array(_TABLE, "table")])


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[FolderStack]:
    write_tiny_store(tmp_path / "models")
    add_version(tmp_path / "models", "v2", _write_failing)
    running = FolderStack(tmp_path, INFERLANE_FEEDBACK_SECRET="secret")  # noqa: S106 - of this test
    try:
        yield running
    finally:
        running.run("down")


@pytest.mark.timeout(900)
def test_a_version_that_always_fails_costs_clients_no_answer_at_a_tenth_of_the_traffic(stack: FolderStack) -> None:
    started = stack.run("up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    split = {"model": "tiny", "weights": {"v1": 0.9, "v2": 0.1}, "fallback": "v1"}
    code, set_split = stack.call("/v1/traffic-split", split)
    assert code == 200, set_split
    assert set_split["fallback"] == "v1"
    answers = [stack.call("/v1/models/predict", {"instances": _OUT_OF_RANGE}) for _ in range(REQUESTS)]
    assert Counter(code for code, _ in answers) == {200: REQUESTS}
    assert {body["version"] for _, body in answers} == {"v1"}

    def failures_of_v2() -> int:
        return int(stack.call("/v1/metrics/v2?model=tiny")[1]["failures"].get("model_error", 0))

    stack.eventually(lambda: failures_of_v2() > 0)
    tokens = [body["outcome_token"] for _, body in answers]
    for part in (tokens[:100], tokens[100:]):
        code, accepted = stack.call("/v1/feedback", [{"token": token, "reward": 2.5} for token in part])
        assert (code, accepted) == (202, {"accepted": len(part)})

    def reward() -> dict[str, float]:
        return (stack.call("/v1/metrics/v1?model=tiny")[1]["feedback"] or {}).get("reward") or {}

    stack.eventually(lambda: reward().get("count") == REQUESTS)
    assert reward()["mean"] == pytest.approx(2.5)
    listed = stack.run("dead-letters", "list")
    assert "0 dead letters" in listed.stdout
    # The same requests as shadow copies: nobody gets those failures either.
    replayed = stack.run(
        "replay", "tiny", "--to", "v2", "--since", "1h", "--sample", "100%", "--rate", "1000", "--json"
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    report = json.loads(replayed.stdout)
    # The stack asks each version once when it starts: those inputs are in range.
    assert report["copies"] >= report["failed"] == REQUESTS
    code, shown = stack.call(f"/v1/shadows/tiny/v2?run={report['run']}")
    assert (code, shown["failures"]) == (200, {"model_error": REQUESTS})
    moved = stack.run("reroute", "tiny", "v2", "--to", "v1")
    assert "moved 0 requests" in moved.stdout, moved.stdout + moved.stderr

"""Rollouts of a running stack: a good candidate is promoted, a broken one rolled back, and clients see neither."""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.fakes.stores import write_tiny_onnx, write_tiny_store
from tests.support.fakes.zoo import add_version, save
from tests.support.folder_stack import FolderStack

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


class Traffic:
    """A client that asks without a pause, and counts what it is answered."""

    def __init__(self, stack: FolderStack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            status, body = self._stack.call("/v1/models/predict", {"instances": _OUT_OF_RANGE})
            self.statuses[status] += 1
            self.versions[body.get("version", "")] += 1


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderStack]:
    folder = tmp_path_factory.mktemp("rollouts")
    write_tiny_store(folder / "models")
    add_version(folder / "models", "v2", _write_failing)
    add_version(folder / "models", "v3", write_tiny_onnx)
    running = FolderStack(folder, INFERLANE_OUTCOME_SLOT_S="1", INFERLANE_OUTCOME_INTERVAL_S="0.5")
    started = running.run("up", "--detach")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield running
    finally:
        running.run("down")


def start(stack: FolderStack, candidate: str, *options: str) -> dict[str, Any]:
    asked = (
        "rollout",
        "start",
        "tiny",
        candidate,
        "--min-requests",
        "20",
        "--min-time",
        "1s",
        "--bake",
        "2s",
        "--json",
    )
    started = stack.run(*asked, *options)
    assert started.returncode == 0, started.stdout + started.stderr
    found: dict[str, Any] = json.loads(started.stdout)
    return found


@pytest.mark.timeout(900)
def test_a_candidate_that_always_fails_is_rolled_back_and_no_client_sees_it(stack: FolderStack) -> None:
    with Traffic(stack) as traffic:
        rollout = start(stack, "v2", "--steps", "20,50,100")["id"]
        waited = stack.run("rollout", "wait", rollout, "--timeout", "3m")
        assert waited.returncode == 1, waited.stdout + waited.stderr
    assert set(traffic.statuses) == {200}
    assert set(traffic.versions) == {"v1"}
    code, found = stack.call(f"/v1/rollouts/{rollout}")
    assert (code, found["phase"]) == (200, "rolled_back")
    assert [event["phase"] for event in found["events"]] == ["preparing", "stepping", "rolling_back", "rolled_back"]
    _, split = stack.call("/v1/traffic-split?model=tiny")
    assert split["weights"]["v1"] == 1.0
    assert "errors: worse" in stack.run("rollout", "history", rollout).stdout
    # A rollout that is over is one event, and the stream ends.
    with urllib.request.urlopen(f"{stack.url}/v1/rollouts/{rollout}/events", timeout=60) as stream:  # noqa: S310 - our own server
        kind, number, data = stream.read().decode().strip().split("\n")
    assert (kind, number.partition(":")[0]) == ("event: rollout", "id")
    assert json.loads(data.removeprefix("data: "))["phase"] == "rolled_back"


def test_a_check_that_cannot_be_read_is_refused_with_the_setting(stack: FolderStack) -> None:
    for check, setting in (
        ("prometheus=sum(up) >= 1", "INFERLANE_PROMETHEUS_URL"),
        ("quality=1%", "INFERLANE_FEEDBACK_SECRET"),
    ):
        refused = stack.run("rollout", "start", "tiny", "v3", "--check", check)
        assert refused.returncode != 0
        assert setting in refused.stdout + refused.stderr


@pytest.mark.timeout(900)
def test_a_good_candidate_goes_through_a_shadow_and_steps_and_is_promoted(stack: FolderStack) -> None:
    with Traffic(stack) as traffic:
        rollout = start(
            stack, "v3", "--steps", "shadow 50% for 5 requests,20,50", "--promote-after", "40", "--reason", "try it"
        )["id"]
        refused, problem = stack.call("/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1}})
        assert (refused, problem["code"]) == (409, "rollout_under_way")
        assert rollout in problem["detail"]
        second, problem = stack.call("/v1/rollouts", {"model": "tiny", "candidate": "v2"})
        assert (second, problem["code"]) == (409, "rollout_under_way")
        waited = stack.run("rollout", "wait", rollout, "--timeout", "3m")
        shown = stack.run("rollout", "status", rollout).stdout
        assert waited.returncode == 0, waited.stderr + shown
    assert set(traffic.statuses) == {200}
    assert traffic.versions["v3"] > 0
    _, found = stack.call(f"/v1/rollouts/{rollout}")
    phases = [event["phase"] for event in found["events"]]
    assert phases == ["preparing", "shadowing", "stepping", "stepping", "baking", "promoted"]
    _, split = stack.call("/v1/traffic-split?model=tiny")
    assert split["weights"]["v3"] == 1.0


@pytest.mark.timeout(900)
def test_a_person_pauses_resumes_and_aborts_and_a_forced_split_pauses(stack: FolderStack) -> None:
    assert stack.call("/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1}})[0] == 200
    # No traffic: the step waits and says for what.
    rollout = start(stack, "v3", "--steps", "10,50")["id"]
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "stepping")
    paused = stack.run("rollout", "pause", "tiny", "--reason", "lunch")
    assert "lunch" in paused.stdout, paused.stderr
    assert stack.run("rollout", "wait", rollout).returncode == 2
    assert stack.run("rollout", "resume", rollout).returncode == 0
    stack.eventually(lambda: "of 20 requests" in stack.run("rollout", "status", rollout).stdout)
    forced = {"model": "tiny", "weights": {"v1": 0.5, "v3": 0.5}, "force": True}
    assert stack.call("/v1/traffic-split", forced)[0] == 200
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "paused")
    assert stack.call("/v1/traffic-split?model=tiny")[1]["weights"]["v3"] == 0.5
    aborted = stack.run("rollout", "abort", rollout, "--reason", "enough")
    assert aborted.returncode == 0, aborted.stderr
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "rolled_back")
    # It was theirs when it was aborted, and stays so.
    assert stack.call("/v1/traffic-split?model=tiny")[1]["weights"]["v3"] == 0.5
    assert stack.call("/v1/rollouts/none")[0] == 404
    assert stack.call(f"/v1/rollouts/{rollout}/pause", {})[0] == 422

"""Rollouts by the commands and calls of a person, on a running stack."""

import json
import threading
import urllib.request
from collections import Counter
from typing import Any, Self

import pytest

from tests.rollouts.rollout_stack import ODD_ROW
from tests.support.folder_stack import FolderStack


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
            status, body = self._stack.call("/v1/models/predict", {"instances": [ODD_ROW]})
            self.statuses[status] += 1
            self.versions[body.get("version", "")] += 1


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
        rollout = start(stack, "fails", "--steps", "20,50,100")["id"]
        waited = stack.run("rollout", "wait", rollout, "--timeout", "3m")
        assert waited.returncode == 1, waited.stdout + waited.stderr
    assert set(traffic.statuses) == {200}
    assert set(traffic.versions) == {"v1"}
    code, found = stack.call(f"/v1/rollouts/{rollout}")
    assert (code, found["phase"]) == (200, "rolled_back")
    assert [event["phase"] for event in found["events"]] == ["preparing", "stepping", "rolling_back", "rolled_back"]
    _, split = stack.call("/v1/traffic-split?model=tiny")
    assert split["weights"]["v1"] == 1.0
    history = stack.run("rollout", "history", rollout).stdout
    # Both end it, whichever is first.
    assert "errors: worse" in history or "model errors in a row" in history, history
    # A rollout that is over is one event, and the stream ends.
    with urllib.request.urlopen(f"{stack.url}/v1/rollouts/{rollout}/events", timeout=60) as stream:  # noqa: S310 - our own server
        kind, number, data = stream.read().decode().strip().split("\n")
    assert (kind, number.partition(":")[0]) == ("event: rollout", "id")
    assert json.loads(data.removeprefix("data: "))["phase"] == "rolled_back"


@pytest.mark.timeout(900)
def test_a_good_candidate_goes_through_a_shadow_and_steps_and_is_promoted(stack: FolderStack) -> None:
    with Traffic(stack) as traffic:
        rollout = start(
            stack, "good", "--steps", "shadow 50% for 5 requests,20,50", "--promote-after", "40", "--reason", "try it"
        )["id"]
        refused, problem = stack.call("/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1}})
        assert (refused, problem["code"]) == (409, "rollout_under_way")
        assert rollout in problem["detail"]
        second, problem = stack.call("/v1/rollouts", {"model": "tiny", "candidate": "fails"})
        assert (second, problem["code"]) == (409, "rollout_under_way")
        waited = stack.run("rollout", "wait", rollout, "--timeout", "3m")
        shown = stack.run("rollout", "status", rollout).stdout
        assert waited.returncode == 0, waited.stderr + shown
    assert set(traffic.statuses) == {200}
    assert traffic.versions["good"] > 0
    _, found = stack.call(f"/v1/rollouts/{rollout}")
    phases = [event["phase"] for event in found["events"]]
    assert phases == ["preparing", "shadowing", "stepping", "stepping", "baking", "promoted"]
    _, split = stack.call("/v1/traffic-split?model=tiny")
    assert split["weights"]["good"] == 1.0


@pytest.mark.timeout(900)
def test_a_person_pauses_resumes_and_aborts_and_a_forced_split_pauses(stack: FolderStack) -> None:
    assert stack.call("/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1}})[0] == 200
    # No traffic: the step waits and says for what.
    rollout = start(stack, "good", "--steps", "10,50")["id"]
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "stepping")
    paused = stack.run("rollout", "pause", "tiny", "--reason", "lunch")
    assert "lunch" in paused.stdout, paused.stderr
    assert stack.run("rollout", "wait", rollout).returncode == 2
    assert stack.run("rollout", "resume", rollout).returncode == 0
    stack.eventually(lambda: "of 20 requests" in stack.run("rollout", "status", rollout).stdout)
    forced = {"model": "tiny", "weights": {"v1": 0.5, "good": 0.5}, "force": True}
    assert stack.call("/v1/traffic-split", forced)[0] == 200
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "paused")
    assert stack.call("/v1/traffic-split?model=tiny")[1]["weights"]["good"] == 0.5
    aborted = stack.run("rollout", "abort", rollout, "--reason", "enough")
    assert aborted.returncode == 0, aborted.stderr
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "rolled_back")
    # It was theirs when it was aborted, and stays so.
    assert stack.call("/v1/traffic-split?model=tiny")[1]["weights"]["good"] == 0.5
    assert stack.call("/v1/rollouts/none")[0] == 404
    assert stack.call(f"/v1/rollouts/{rollout}/pause", {})[0] == 422

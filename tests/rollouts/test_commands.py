"""Rollouts by the commands and calls of a person, on a running stack. Each test begins with all traffic on v1."""

import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from inferlane_client import AsyncClient, Client, InvalidRequest, NotFound, RolloutPhase, TimedOut
from tests.rollouts.rollout_stack import ODD_ROW
from tests.support.folder_stack import FolderStack
from tests.support.parts import eventually


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
            # The longest wait: on a busy machine a shorter one may run out, which is a 202 and no failure.
            status, body = self._stack.call("/v1/models/predict", {"instances": [ODD_ROW], "timeout_s": 60})
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


OVER = {"promoted", "rolled_back", "failed"}


@pytest.fixture(autouse=True)
def _all_traffic_on_v1(stack: FolderStack) -> None:
    def is_over() -> bool:
        _, found = stack.call("/v1/rollouts")
        return all(one["phase"] in OVER for one in found["rollouts"] if one["spec"]["model"] == "tiny")

    for one in stack.call("/v1/rollouts")[1]["rollouts"]:
        if one["spec"]["model"] == "tiny" and one["phase"] not in OVER:
            stack.call(f"/v1/rollouts/{one['id']}/abort", {"reason": "another test begins"})
    stack.eventually(is_over)
    assert stack.call("/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1}})[0] == 200


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
    stack.eventually(lambda: stack.call("/v1/traffic-split?model=tiny")[1]["weights"]["v1"] == 1.0)
    history = stack.run("rollout", "history", rollout).stdout
    # Both end it, whichever is first.
    assert "errors: worse" in history or "model errors in a row" in history, history
    # A rollout that is over is one event, and the stream ends.
    with urllib.request.urlopen(f"{stack.url}/v1/rollouts/{rollout}/events", timeout=60) as stream:  # noqa: S310 - our own server
        fields = dict(line.split(": ", 1) for line in stream.read().decode().strip().split("\n"))
    assert (fields.keys(), fields["event"]) == ({"event", "id", "data"}, "rollout")
    assert json.loads(fields["data"])["phase"] == "rolled_back"


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
    stack.eventually(lambda: stack.call("/v1/traffic-split?model=tiny")[1]["weights"]["good"] == 1.0)


@pytest.mark.timeout(900)
def test_a_person_pauses_resumes_and_aborts_and_a_forced_split_pauses(stack: FolderStack) -> None:
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
    assert stack.call(f"/v1/rollouts/{rollout}/pause", {})[0] == 409


def refusal(stack: FolderStack, *arguments: str, code: int = 1) -> str:
    """What a command of rollouts says that exits with `code`."""
    ran = stack.run("rollout", *arguments)
    assert (ran.returncode, "Traceback" in ran.stderr) == (code, False), ran.stdout + ran.stderr
    return " ".join(ran.stderr.split())


@pytest.mark.timeout(900)
def test_commands_that_do_not_apply_are_refused_with_the_reason_and_change_nothing(stack: FolderStack) -> None:
    rollout = start(stack, "good", "--steps", "10,50")["id"]
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "stepping")
    assert "only a paused one can be resumed" in refusal(stack, "resume", rollout)
    used = stack.run("models", "retire", "tiny/good")
    assert used.returncode == 1
    assert rollout in used.stderr
    stack.eventually(lambda: stack.call("/v1/traffic-split?model=tiny")[1]["weights"]["good"] == 0.1)
    assert stack.run("rollout", "abort", rollout, "--reason", "enough").returncode == 0
    # Without traffic nothing is left to do.
    stack.eventually(lambda: stack.call(f"/v1/rollouts/{rollout}")[1]["phase"] == "rolled_back", within_s=30)
    for action in ("pause", "resume", "promote", "abort"):
        code, problem = stack.call(f"/v1/rollouts/{rollout}/{action}", {})
        assert (code, problem["code"]) == (409, "rollout_state_conflict")
        assert "is over: rolled_back, enough; start another one" in problem["detail"]
    assert "no rollout" in refusal(stack, "status", "nothing")


def test_of_rollouts_that_are_started_at_once_one_starts_and_the_others_are_refused(stack: FolderStack) -> None:
    asked = {"model": "tiny", "candidate": "good", "steps": ["10%"]}
    with ThreadPoolExecutor(3) as callers:
        answers = list(callers.map(lambda _: stack.call("/v1/rollouts", asked), range(3)))
    assert sorted(code for code, _ in answers) == [201, 409, 409]
    started = next(body for code, body in answers if code == 201)
    assert all(started["id"] in body["detail"] for code, body in answers if code == 409)


@pytest.mark.timeout(300)
def test_waiting_has_an_exit_code_for_each_end_and_one_for_what_cannot_be_found_out(stack: FolderStack) -> None:
    rollout = start(stack, "good", "--steps", "10,50")["id"]
    assert "is still" in refusal(stack, "wait", rollout, "--timeout", "0s", code=3)
    assert stack.run("rollout", "pause", rollout).returncode == 0
    assert "paused" in refusal(stack, "wait", rollout, code=2)
    assert stack.run("rollout", "abort", rollout, "--reason", "enough").returncode == 0
    assert "rolled_back: enough" in refusal(stack, "wait", rollout, code=1)
    assert "no rollout" in refusal(stack, "wait", "nothing", code=4)
    assert "Missing argument" in refusal(stack, "wait", code=4)
    elsewhere = stack.environment | {"INFERLANE_STATE_DIR": "/nowhere", "INFERLANE_API_PORT": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "control_plane", "rollout", "wait", "tiny", "--timeout", "0s"],
        env=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 4, ran.stderr
    assert "no answer of the API" in ran.stderr


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("inferlane rollout start ti", {"tiny"}),
        ("inferlane rollout start tiny g", {"good"}),
        ("inferlane rollout status tiny-good-", {"ID"}),
        ("inferlane rollout start tiny good --check an", {"answers"}),
    ],
)
def test_the_shell_completes_models_versions_rollouts_and_checks(
    stack: FolderStack, line: str, completed: set[str]
) -> None:
    _, body = stack.call("/v1/rollouts", {"model": "tiny", "candidate": "good", "steps": ["10%"]})
    asking = {"_INFERLANE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("inferlane"))],
        env=stack.environment | asking,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    offered = set(ran.stdout.split())
    assert offered >= {body["id"] if name == "ID" else name for name in completed}, ran.stderr
    assert all(name.startswith(line.rpartition(" ")[2]) for name in offered)


def test_a_program_starts_watches_and_ends_a_rollout(stack: FolderStack) -> None:
    with Client(stack.url) as client:
        started = client.rollouts.start(
            "good",
            model="tiny",
            steps=["10%", 50],
            checks={"errors": {}, "share": {}},
            reason="by a program",
            bake="1m",
        )
        assert (started.model, started.stable, started.candidate, started.weight) == ("tiny", "v1", "good", 0.0)
        stack.eventually(lambda: client.rollouts.get(started.id).phase is RolloutPhase.STEPPING)
        # The state is written before the split that follows from it.
        stack.eventually(lambda: client.traffic_split("tiny").weights["good"] == 0.1)
        with pytest.raises(InvalidRequest, match=started.id):
            client.rollouts.start("good", model="tiny")
        with pytest.raises(InvalidRequest, match=started.id):
            client.set_traffic_split({"v1": 1}, model="tiny")
        with pytest.raises(TimedOut, match=f"{started.id} is still stepping"):
            client.rollouts.wait(started.id, timeout_s=3)
        paused = client.rollouts.pause(started.id, reason="lunch")
        assert (paused.phase, paused.reason, paused.weight) == (RolloutPhase.PAUSED, "lunch", 0.1)
        assert client.rollouts.wait(started.id, timeout_s=10).phase is RolloutPhase.PAUSED
        assert client.rollouts.resume(started.id).phase is RolloutPhase.STEPPING
        client.rollouts.abort(started.id, reason="enough")
        ended = client.rollouts.wait(started.id, timeout_s=60)
        assert (ended.phase, ended.phase.is_over) == (RolloutPhase.ROLLED_BACK, True)
        assert [event.phase for event in ended.events[:2]] == [RolloutPhase.PREPARING, RolloutPhase.STEPPING]
        assert ended.events[0].reason == "by a program"
        assert {verdict.check for verdict in ended.verdicts} == {"errors", "share"}
        assert started.id in {one.id for one in client.rollouts.list()}
        with pytest.raises(InvalidRequest, match="is over: rolled_back"):
            client.rollouts.promote(started.id)
        with pytest.raises(NotFound):
            client.rollouts.get("nothing")
        with pytest.raises(InvalidRequest, match="larger than the one before"):
            client.rollouts.start("good", model="tiny", steps=["50%", "5%"])


async def test_a_program_on_an_event_loop_does_as_much(stack: FolderStack) -> None:
    async with AsyncClient(stack.url) as client:
        started = await client.rollouts.start("good", model="tiny", steps=["10%"], each={"min_requests": 10_000})

        async def is_stepping() -> bool:
            return (await client.rollouts.get(started.id)).phase is RolloutPhase.STEPPING

        await eventually(is_stepping)
        assert (await client.rollouts.pause(started.id)).phase is RolloutPhase.PAUSED
        assert (await client.rollouts.resume(started.id)).phase is RolloutPhase.STEPPING
        assert (await client.rollouts.promote(started.id)).weight == 1.0
        await client.rollouts.abort(started.id, reason="enough")
        assert (await client.rollouts.wait(started.id, timeout_s=60)).phase is RolloutPhase.ROLLED_BACK
        assert (await client.rollouts.list())[0].id == started.id

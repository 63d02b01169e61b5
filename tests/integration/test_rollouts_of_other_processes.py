"""What another API process or a router has just written is known to each process that is asked next."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from inferlane.contracts.rollout import Phase, RolloutEvent, RolloutSpec, RolloutState, Step
from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable, publish_rollout
from tests.support.fakes.stores import write_tiny_onnx
from tests.support.fakes.zoo import add_version
from tests.support.running_api import running_api

pytestmark = pytest.mark.timeout(120)

SPEC = RolloutSpec(model="tiny", candidate="v2", stable="v1", steps=(Step(weight=0.5),))
SPLIT = {"model": "tiny", "weights": {"v1": 1}}


async def test_a_rollout_is_known_as_soon_as_another_process_has_answered_its_start(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        kafka, names = api.settings.kafka, api.settings.stack.names
        for number in range(10):
            started = RolloutState(id=f"tiny-{number}", spec=SPEC, phase=Phase.PROMOTED)
            await publish_rollout(kafka, names, started)
            status, found = await api.call("GET", f"/v1/rollouts/{started.id}")
            assert (status, found.get("id")) == (200, started.id)
            status, problem = await api.call("POST", f"/v1/rollouts/{started.id}/pause")
            assert (status, problem["code"]) == (409, "rollout_state_conflict")
        status, problem = await api.call("GET", "/v1/rollouts/nobody-started-it")
        assert (status, problem["code"]) == (404, "unknown_rollout")


async def test_a_split_is_judged_by_the_newest_state_of_its_rollout(tmp_path: Path) -> None:
    add_version(tmp_path / "models", "v2", write_tiny_onnx, model="tiny")
    async with running_api(tmp_path) as api:
        kafka, names = api.settings.kafka, api.settings.stack.names
        for number in range(5):
            stepping = RolloutState(id=f"tiny-{number}", spec=SPEC, phase=Phase.STEPPING, generation=1, revision=1)
            await publish_rollout(kafka, names, stepping)
            status, problem = await api.call("POST", "/v1/traffic-split", SPLIT)
            assert (status, problem.get("code")) == (409, "rollout_under_way")
            await publish_rollout(kafka, names, replace(stepping, phase=Phase.ROLLED_BACK, revision=2))
            status, split = await api.call("POST", "/v1/traffic-split", SPLIT)
            assert (status, split.get("weights")) == (200, {"v1": 1.0, "v2": 0.0})


async def test_a_command_is_judged_by_the_newest_state(tmp_path: Path) -> None:
    async with running_api(tmp_path, default_wait_s=0.5) as api:
        kafka, names = api.settings.kafka, api.settings.stack.names
        for number in range(5):
            state = RolloutState(id=f"tiny-{number}", spec=SPEC, phase=Phase.STEPPING, generation=1, revision=1)
            await publish_rollout(kafka, names, state)
            await publish_rollout(kafka, names, replace(state, phase=Phase.PROMOTED, revision=2))
            status, problem = await api.call("POST", f"/v1/rollouts/{state.id}/pause", {})
            assert (status, "promoted" in problem["detail"]) == (409, True), problem


async def test_a_start_names_where_the_rollout_is_read(tmp_path: Path) -> None:
    add_version(tmp_path / "models", "v2", write_tiny_onnx, model="tiny")
    async with running_api(tmp_path, default_wait_s=30.0) as api:
        kafka, names = api.settings.kafka, api.settings.stack.names
        table = RolloutTable()
        follower = RolloutFollower(kafka, names, table)
        await follower.start()

        async def decide() -> RolloutState:
            while not table.commands:
                await table.changed(timeout_s=1.0)
            (given,) = table.commands
            assert given.command.spec is not None
            event = RolloutEvent(number=0, at_s=0.0, phase=Phase.PREPARING, was=Phase.DRAFT)
            decided = RolloutState(
                id=given.command.rollout,
                spec=given.command.spec,
                phase=event.phase,
                events=(event,),
                commands_through=given.offset,
            )
            await publish_rollout(kafka, names, decided)
            return decided

        try:
            asked = api.session.post(f"{api.url}/v1/rollouts", json={"model": "tiny", "candidate": "v2"})
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                deciding = group.create_task(decide())
                async with asked as answer:
                    assert answer.status == 201, await answer.text()
                    found = await api.call("GET", answer.headers["location"])
        finally:
            await follower.close()
        assert (found[0], found[1]["id"]) == (200, deciding.result().id)

"""A split that a person sets when a rollout is over comes after the rollout's last one, which may be late."""

import asyncio
from pathlib import Path

import pytest

from inferlane.contracts.rollout import Phase, RolloutSpec, RolloutState, Step
from inferlane.contracts.traffic_split import Split
from inferlane.runtime.rollout_table import publish_rollout
from inferlane.runtime.split_table import publish_split
from tests.support.fakes.stores import write_tiny_onnx
from tests.support.fakes.zoo import add_version
from tests.support.parts import eventually
from tests.support.running_api import RunningApi, running_api

pytestmark = pytest.mark.timeout(120)

SPEC = RolloutSpec(model="tiny", candidate="v2", stable="v1", steps=(Step(weight=0.5),))
SET = {"model": "tiny", "weights": {"v1": 1}}


async def end_without_last_split(api: RunningApi) -> None:
    """A rollout is promoted and its router has not set the split of its end yet."""
    kafka, names = api.settings.kafka, api.settings.stack.names
    baking = Split(model="tiny", weights={"v2": 1.0}, rollout="tiny-1", generation=1, fallback="v1")
    await publish_split(kafka, names, baking)
    await publish_rollout(
        kafka, names, RolloutState(id="tiny-1", spec=SPEC, phase=Phase.PROMOTED, generation=1, revision=1)
    )

    async def is_known() -> bool:
        _, found = await api.call("GET", "/v1/rollouts")
        _, split = await api.call("GET", "/v1/traffic-split")
        return len(found["rollouts"]) == 1 and split["weights"].get("v2") == 1.0

    await eventually(is_known)


async def test_the_last_split_of_a_rollout_replaces_none_that_a_person_set(tmp_path: Path) -> None:
    add_version(tmp_path / "models", "v2", write_tiny_onnx, model="tiny")
    async with running_api(tmp_path) as api:
        await end_without_last_split(api)
        setting = asyncio.create_task(api.call("POST", "/v1/traffic-split", SET))
        last = Split(model="tiny", weights={"v2": 1.0}, generation=1)
        await publish_split(api.settings.kafka, api.settings.stack.names, last)
        status, split = await setting
        assert (status, split["weights"]) == (200, {"v1": 1.0, "v2": 0.0})
        _, after = await api.call("GET", "/v1/traffic-split")
        # Both calls write the same form: what is not set is left out.
        assert after == split
        assert set(split) == {"model", "weights", "changed_s"}


async def test_without_a_router_the_call_says_that_the_last_split_is_missing(tmp_path: Path) -> None:
    add_version(tmp_path / "models", "v2", write_tiny_onnx, model="tiny")
    async with running_api(tmp_path, default_wait_s=0.5) as api:
        await end_without_last_split(api)
        status, problem = await api.call("POST", "/v1/traffic-split", SET)
        assert (status, problem["code"]) == (503, "unavailable")
        assert "no router has set its last split within 0.5 s" in problem["detail"]

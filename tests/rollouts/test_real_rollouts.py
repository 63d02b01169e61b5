"""Rollouts of a running stack with real models: what clients are answered, and what is decided.

On the embedded broker a few of them; on Apache Kafka (`--broker apache`) all. Models are side by side, the rollouts of
a model one after the other.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control_plane.local.pools import worker_pool
from tests.rollouts.rollout_stack import (
    ODD_ROW,
    ROW,
    Clients,
    RolloutStack,
    clients,
    foreign_program,
    phases_of,
    second_router,
    summary_of,
)
from tests.support.brokers import BrokerKind

pytestmark = pytest.mark.timeout(900)

ENDS_BADLY = ["preparing", "stepping", "rolling_back", "rolled_back"]
ENDS_WELL = ["preparing", "stepping", "stepping", "baking", "promoted"]
OVER = ("promoted", "rolled_back", "failed", "paused")
SMALL = {"steps": ["5%", "50%"]}
# A call waits as long by default, and nobody sees that a candidate hangs.
DEFAULT_WAIT_S = 10.0


@pytest.fixture(autouse=True)
async def nothing_under_way(stack: RolloutStack) -> None:
    """A test that fails leaves rollouts under way, which would refuse what comes after it."""
    await stack.end_rollouts()


@asynccontextmanager
async def answered_by(
    stack: RolloutStack, model: str, *versions: str, wait_s: float = 60.0, keys: int = 0
) -> AsyncIterator[Clients]:
    """Clients of a model, each request of which must be answered within `wait_s`, by these versions alone."""
    async with clients(stack, model, wait_s=wait_s, keys=keys) as asking:
        yield asking
    assert asking.failures == []
    assert set(asking.versions) == set(versions)


async def run(stack: RolloutStack, model: str, candidate: str, *phases: str, **asked: Any) -> dict[str, Any]:
    """Run a rollout; it must go through these phases."""
    found = await stack.reaches(await stack.rollout(model, candidate, **asked), *OVER)
    assert phases_of(found) == list(phases), summary_of(found)
    assert [event["number"] for event in found["events"]] == list(range(1, len(phases) + 1))
    return found


async def fails(stack: RolloutStack) -> None:
    """One that fails all of its requests: nobody sees it, and it is back at weight 0 within seconds."""
    async with answered_by(stack, "broken", "v1"):
        found = await run(stack, "broken", "fails", *ENDS_BADLY, **SMALL)
        assert await stack.weights("broken") == {"v1": 1.0}
    assert found["failed_requests"] >= 1
    began, ended = found["events"][1]["at_s"], found["events"][2]["at_s"]
    assert ended - began < 60, summary_of(found)


async def hangs(stack: RolloutStack) -> None:
    """One that does not end: its worker gives up, and clients are answered within the default wait."""
    async with answered_by(stack, "broken", "v1", wait_s=DEFAULT_WAIT_S):
        found = await run(stack, "broken", "hangs", *ENDS_BADLY, **SMALL)
    assert "halted" in found["reason"]


async def hangs_as_a_shadow(stack: RolloutStack) -> None:
    """One that does not end on copies of requests: nobody notices, and it gets no weight."""
    async with answered_by(stack, "both", "v1", wait_s=DEFAULT_WAIT_S):
        steps = ["shadow 50% for 5000 requests", "50%"]
        await run(stack, "both", "hangs", "preparing", "shadowing", *ENDS_BADLY[2:], steps=steps)


async def is_odd(stack: RolloutStack) -> None:
    """One that answers NaN, one that is slow, and one that answers otherwise."""
    async with answered_by(stack, "unusual", "v1"):
        found = await run(stack, "unusual", "nan", *ENDS_BADLY)
        # Whichever is seen first: how many fail until the next look depends on the rate of the stack.
        assert re.match(r"errors: worse|\d+ model errors in a row", found["reason"]), found["reason"]
    async with answered_by(stack, "unusual", "v1", "slow"):
        asked = {"checks": {"latency": {"budget_ms": 4}}, "each": {"min_requests": 5_000}, "steps": ["50%"]}
        found = await run(stack, "unusual", "slow", *ENDS_BADLY, **asked)
        assert found["reason"].startswith("latency: worse")
    async with answered_by(stack, "unusual", "v1"):
        asked = {"checks": {"agreement": {}}, "steps": ["shadow 50% for 5000 requests", "50%"]}
        found = await run(stack, "unusual", "differs", "preparing", "shadowing", "paused", **asked)
        assert found["reason"].startswith("agreement: 0.0%")
        await stack.post(f"/v1/rollouts/{found['id']}/abort", {"reason": "not what we want"})
        await stack.reaches(found["id"], "rolled_back")
        assert await stack.weights("unusual") == {"v1": 1.0}


async def has_keys(stack: RolloutStack) -> None:
    """Requests of users alone, each of whom goes to one version."""
    async with answered_by(stack, "keyed", "v1", keys=500):
        await run(stack, "keyed", "fails", *ENDS_BADLY)
    async with answered_by(stack, "keyed", "v1", "good", keys=500):
        await run(stack, "keyed", "good", *ENDS_WELL)
    assert await stack.weights("keyed") == {"good": 1.0}


async def is_bulk(stack: RolloutStack) -> None:
    """All requests come from somebody else's program on the bulk topic, and each has one result there."""
    for candidate, phases in (("fails", ENDS_BADLY), ("good", ENDS_WELL)):
        async with foreign_program(stack, "loads") as program:
            await run(stack, "loads", candidate, *phases)
        assert {len(results) for results in program.results.values()} == {1}
        found = {result for results in program.results.values() for result in results}
        assert found == {("SUCCEEDED", version) for version in {"v1", "good"} & {"v1", candidate}}


async def hangs_in_bulk(stack: RolloutStack) -> None:
    """One that does not end, in the lane without deadlines."""
    async with foreign_program(stack, "loads") as program:
        await run(stack, "loads", "hangs", *ENDS_BADLY)
    assert {tuple(results) for results in program.results.values()} == {(("SUCCEEDED", "v1"),)}


async def has_both_lanes(stack: RolloutStack) -> None:
    """Clients and somebody else's program at once, and a shadow step first."""
    shadow_first = {"steps": ["shadow 50% for 20 requests", "20%", "50%"]}
    async with answered_by(stack, "both", "v1", "good"), foreign_program(stack, "both"):
        await run(stack, "both", "good", "preparing", "shadowing", *ENDS_WELL[1:], **shadow_first)


async def loses_a_worker(stack: RolloutStack) -> None:
    """The candidate's worker is killed in a step: another one comes, and the rollout goes on."""
    async with answered_by(stack, "both", "v1", "good"):
        rollout = await stack.rollout("both", "good")
        await stack.reaches(rollout, "stepping")
        stack.kill(worker_pool("both", "good"))
        found = await stack.reaches(rollout, *OVER)
        assert phases_of(found) == ENDS_WELL, summary_of(found)


async def is_touched(stack: RolloutStack) -> None:
    """Somebody sets the split by hand in the middle, and somebody aborts."""
    async with answered_by(stack, "by-hand", "v1", "good"):
        rollout = await stack.rollout("by-hand", "good", each={"min_requests": 1_000_000})
        await stack.reaches(rollout, "stepping")
        by_hand = {"model": "by-hand", "weights": {"v1": 0.5, "good": 0.5}}
        status, problem = await asyncio.to_thread(stack.call, "/v1/traffic-split", by_hand)
        assert (status, problem["code"]) == (409, "rollout_under_way")
        await stack.post("/v1/traffic-split", by_hand | {"force": True})
        await stack.reaches(rollout, "paused")
        assert await stack.weights("by-hand") == {"v1": 0.5, "good": 0.5}
        await stack.post(f"/v1/rollouts/{rollout}/resume", {})
        await stack.reaches(rollout, "stepping")
        await stack.post(f"/v1/rollouts/{rollout}/abort", {"reason": "enough"})
        found = await stack.reaches(rollout, *OVER)
        assert phases_of(found) == [*ENDS_BADLY[:2], "paused", "stepping", *ENDS_BADLY[2:]], summary_of(found)
        assert await stack.weights("by-hand") == {"v1": 1.0}


async def is_promoted_by_hand(stack: RolloutStack) -> None:
    """Somebody pauses it, and gives it all traffic."""
    async with answered_by(stack, "by-hand", "v1", "good"):
        rollout = await stack.rollout("by-hand", "good", each={"min_requests": 1_000_000})
        await stack.reaches(rollout, "stepping")
        await stack.post(f"/v1/rollouts/{rollout}/pause", {"reason": "lunch"})
        await stack.reaches(rollout, "paused")
        await stack.post(f"/v1/rollouts/{rollout}/promote", {"reason": "we know it"})
        found = await stack.reaches(rollout, "promoted", "rolled_back", "failed")
        assert phases_of(found) == [*ENDS_WELL[:2], "paused", *ENDS_WELL[3:]], summary_of(found)
        assert await stack.weights("by-hand") == {"good": 1.0}


async def breaks_late(stack: RolloutStack) -> None:
    """One that is fine until it has all traffic: the stable version still answers."""
    async with answered_by(stack, "by-hand", "v1", "fails") as asking:
        asking.row = ROW
        rollout = await stack.rollout("by-hand", "fails", bake="5m")
        await stack.reaches(rollout, "baking", *OVER)
        asking.row = ODD_ROW
        found = await stack.reaches(rollout, *OVER)
    assert phases_of(found) == [*ENDS_WELL[:4], *ENDS_BADLY[2:]], summary_of(found)
    assert await stack.weights("by-hand") == {"v1": 1.0}


Rollouts = Callable[[RolloutStack], Awaitable[None]]
# By model, one after the other.
A_FEW: dict[str, tuple[Rollouts, ...]] = {"broken": (fails, hangs)}
ALL: dict[str, tuple[Rollouts, ...]] = {
    "broken": (fails, hangs),
    "unusual": (is_odd,),
    "keyed": (has_keys,),
    "loads": (is_bulk, hangs_in_bulk),
    "both": (hangs_as_a_shadow, has_both_lanes, loses_a_worker),
    "by-hand": (is_touched, is_promoted_by_hand, breaks_late),
}


async def test_each_rollout_ends_as_it_must_and_nobody_sees_a_broken_version(
    stack: RolloutStack, broker_kind: str
) -> None:
    async def one_after_the_other(rollouts: tuple[Rollouts, ...]) -> None:
        for each in rollouts:
            await each(stack)

    async with asyncio.TaskGroup() as models:
        for rollouts in (A_FEW if broker_kind == BrokerKind.EMBEDDED else ALL).values():
            models.create_task(one_after_the_other(rollouts))


@pytest.mark.on_apache_kafka_alone
async def test_a_controller_that_is_killed_at_each_transition_goes_on_and_decides_nothing_twice(
    stack: RolloutStack,
) -> None:
    async def killed_at_each(rollout: str) -> dict[str, Any]:
        seen = 0
        while True:
            found = await stack.get(f"/v1/rollouts/{rollout}")
            if len(found["events"]) > seen:
                seen = len(found["events"])
                stack.kill("router")
            if found["phase"] in OVER:
                return found

    async with (
        answered_by(stack, "keyed", "v1", "good", keys=500),
        answered_by(stack, "broken", "v1"),
        asyncio.TaskGroup() as both,
    ):
        # A start is answered once a router has decided on it.
        rollouts = await stack.rollout("keyed", "good"), await stack.rollout("broken", "fails")
        good, bad = (both.create_task(killed_at_each(rollout)) for rollout in rollouts)
    for found, phases in ((good.result(), ENDS_WELL), (bad.result(), ENDS_BADLY)):
        assert phases_of(found) == phases, summary_of(found)
        assert [event["number"] for event in found["events"]] == list(range(1, len(phases) + 1))


@pytest.mark.on_apache_kafka_alone
async def test_of_two_routers_one_decides_and_the_other_goes_on_when_it_is_killed(
    stack: RolloutStack, tmp_path: Path
) -> None:
    async with (
        second_router(stack, tmp_path),
        answered_by(stack, "keyed", "v1", "good", keys=500),
        answered_by(stack, "broken", "v1"),
    ):
        good, bad = await stack.rollout("keyed", "good"), await stack.rollout("broken", "fails")
        await stack.reaches(good, "stepping")
        stack.kill("router")
        for rollout, phases in ((good, ENDS_WELL), (bad, ENDS_BADLY)):
            found = await stack.reaches(rollout, *OVER)
            assert phases_of(found) == phases, summary_of(found)

"""A version of the real stack that needs more than one worker leaves the process that it shares."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control_plane.cli.up_command import load_targets
from control_plane.local.managed_process import State
from control_plane.local.pools import StackPools
from control_plane.local.probe import Target, predict
from control_plane.local.profile import StackOptions, stack_profile
from control_plane.local.supervisor import Supervisor
from control_plane.local.version_pools import VersionPools
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.api_address import ApiAddress
from models.adding.publication import write_version
from models.store import write_model
from tests.support.fakes.stores import describe_tiny, write_tiny_onnx
from tests.support.stack_ports import free_stack_ports

pytestmark = pytest.mark.timeout(300)


class Stack:
    """A running stack of the versions `tiny` and `small`, which share a process."""

    def __init__(self, folder: Path) -> None:
        for model in ("tiny", "small"):
            write_version(
                folder / "models", model=model, version="v1", write_onnx=write_tiny_onnx, describe=describe_tiny
            )
            write_model(folder / "models" / model, description="", default_version="v1", classes=("a", "b", "c"))
        ports = free_stack_ports()
        options = StackOptions(
            api_port=ports.api,
            broker_port=ports.broker,
            store_port=ports.store,
            first_ops_port=ports.first_ops,
            dashboard_port=0,
            shared_worker_max_model_bytes=1_000_000,
        )
        chosen = load_settings(state_dir=folder / "s", models_dir=folder / "models", default_model="tiny")
        profile = stack_profile(chosen, options)
        self.settings = profile.settings
        targets = load_targets(profile.settings.stack)
        self.targets = {target.model: target for target in targets}
        pools = StackPools(profile, options, targets)
        self.supervisor = Supervisor(pools.all())
        self.versions = VersionPools(
            profile.settings, pools=pools, supervisor=self.supervisor, unusable=(), workers=1, on_change=lambda: None
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop, ready = asyncio.Event(), asyncio.Event()

        async def when_ready() -> None:
            await self.versions.probe_all()
            ready.set()

        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.supervisor.run(stop, when_ready=when_ready))
            running.add_done_callback(lambda _: ready.set())
            await ready.wait()
            try:
                yield
            finally:
                stop.set()

    async def answers(self, target: Target) -> None:
        await predict(ApiAddress.of_this_machine(self.settings.api, self.settings.client), target, wait_s=60.0)

    def workers(self, pool: str) -> list[State]:
        return [process.state for name, process in self.supervisor.processes() if name == pool]


async def test_a_version_that_needs_two_workers_gets_a_pool_and_the_others_stay(tmp_path: Path) -> None:
    """Guards `VersionPools.scale`: a shared version would stay at one worker whatever its lag says."""
    stack = Stack(tmp_path)
    async with stack.running():
        assert stack.versions.sharing("worker-shared") == ("small/v1", "tiny/v1")
        await stack.versions.scale("worker-small-v1", 1)
        assert stack.workers("worker-small-v1") == []
        await stack.versions.scale("worker-small-v1", 2)
        assert stack.workers("worker-small-v1") == [State.READY] * 2
        assert stack.versions.sharing("worker-shared") == ("tiny/v1",)
        for target in stack.targets.values():
            await stack.answers(target)
        assert stack.versions.faults() == ()
        # It keeps its pool, which is scaled as any other.
        await stack.versions.scale("worker-small-v1", 1)
        assert stack.workers("worker-small-v1") == [State.READY]
        await stack.answers(stack.targets["small"])
        # One in a rollout leaves too.
        await stack.versions.isolate("tiny", "v1")
        assert stack.workers("worker-tiny-v1") == [State.READY]
        await stack.answers(stack.targets["tiny"])

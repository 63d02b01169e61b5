"""The real embedded broker and store under the supervisor."""

import asyncio
import dataclasses
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from control_plane.cli import doctor
from control_plane.local.doctor_checks import check_store, check_topics
from control_plane.local.hop_progress import holding_hop, router_progress
from control_plane.local.managed_process import State
from control_plane.local.pools import StackPools
from control_plane.local.probe import Target
from control_plane.local.profile import Profile, StackOptions, stack_profile
from control_plane.local.supervisor import Supervisor
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.clients import make_consumer, make_producer
from inferlane.runtime.redis.connection import connect
from tests.support.parts import free_port

WAIT_S = 60.0
NAMES = Names()
TARGETS = [Target(model="iris", version="v1", signature=Signature(inputs=(), outputs=()))]
# A supervisor of its own process that says who its children are, for somebody to kill it.
PROGRAM = """
import asyncio, sys
from inferlane.runtime.config import load_settings
from control_plane.local.pools import StackPools
from control_plane.local.profile import StackOptions, stack_profile
from control_plane.local.supervisor import Supervisor

async def main():
    options = StackOptions(broker_port=int(sys.argv[1]), store_port=int(sys.argv[2]))
    profile = stack_profile(load_settings(state_dir=sys.argv[3]), options)
    supervisor = Supervisor(StackPools(profile, options, []).parts())
    async def say():
        print("children", *(managed.child.pid for _, managed in supervisor.processes()), flush=True)
    await supervisor.run(asyncio.Event(), when_ready=say)
asyncio.run(main())
"""


@pytest.fixture
def options() -> StackOptions:
    return StackOptions(broker_port=free_port(), store_port=free_port(), store_maxmemory_mib=32)


@pytest.fixture
def profile(options: StackOptions, tmp_path: Path) -> Profile:
    return stack_profile(load_settings(state_dir=tmp_path), options)


@asynccontextmanager
async def running(pools: StackPools, changed: asyncio.Event) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(pools.parts(), on_change=changed.set)
    stop, ready = asyncio.Event(), asyncio.Event()

    async def when_ready() -> None:
        ready.set()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(supervisor.run(stop, when_ready=when_ready))
        await ready.wait()
        yield supervisor
        stop.set()
    assert psutil.Process().children() == []


async def topics_of(profile: Profile) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=profile.settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def test_broker_and_store_answer_with_what_we_promise_and_leave_nothing(
    profile: Profile, options: StackOptions
) -> None:
    async with running(StackPools(profile, options, TARGETS), asyncio.Event()):
        assert {*NAMES.ingress.values(), "inferlane.iris.v1.requests", "inferlane.splits"} <= await topics_of(profile)
        async with connect(profile.settings.store.redis_url) as redis:
            limits = await redis.config_get("maxmemory*")
            assert limits["maxmemory-policy"] == "noeviction"
            assert int(limits["maxmemory"]) == 32 * 1024 * 1024
            assert (await redis.config_get("save"))["save"] == ""
            assert (await redis.config_get("bind"))["bind"] == "127.0.0.1"


async def test_a_killed_broker_comes_back_with_its_topics(profile: Profile, options: StackOptions) -> None:
    changed = asyncio.Event()
    async with running(StackPools(profile, options, TARGETS), changed) as supervisor:
        broker = next(managed for pool, managed in supervisor.processes() if pool == "broker")
        assert broker.child is not None
        psutil.Process(broker.child.pid).kill()
        while not (broker.restarts == 1 and broker.state is State.READY):
            changed.clear()
            await changed.wait()
        assert "inferlane.iris.v1.requests" in await topics_of(profile)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel kills orphans on Linux; elsewhere the next `up` does")
def test_sigkill_of_the_supervisor_leaves_no_child(options: StackOptions, tmp_path: Path) -> None:
    arguments = [str(options.broker_port), str(options.store_port), str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # The supervisor's own log lines come first.
        line = next(line for line in process.stdout if line.startswith("children "))
        children = [psutil.Process(int(pid)) for pid in line.split()[1:]]
        assert len(children) == 2
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=WAIT_S)
    assert alive == []


def test_a_taken_port_stops_the_start_before_anything_runs(profile: Profile, options: StackOptions) -> None:
    with (
        socket.create_server(("127.0.0.1", options.store_port)),
        pytest.raises(ConfigurationError, match=r"--store-port \(INFERLANE_STORE_PORT\)"),
    ):
        StackPools(profile, options, TARGETS).all()


async def test_the_hop_that_holds_a_request_is_named(profile: Profile, options: StackOptions) -> None:
    settings, [target] = profile.settings, TARGETS
    topic, work = NAMES.ingress[Lane.REQUESTS], NAMES.work_topic("iris", "v1", Lane.REQUESTS)
    async with running(StackPools(profile, options, TARGETS), asyncio.Event()):
        assert await router_progress(settings.kafka, settings.stack.names) == "nothing waits for it"
        await produce(profile, topic)
        assert "the router has not taken it: 1 wait in inferlane.requests" in await holding_hop(
            settings.kafka, settings.stack.names, target
        )
        await commit_all(profile, topic, NAMES.router_group)
        await produce(profile, work)
        assert "no worker has answered it: 1 wait in inferlane.iris.v1.requests" in await holding_hop(
            settings.kafka, settings.stack.names, target
        )
        await commit_all(profile, work, NAMES.worker_group("iris", "v1"))
        assert "the API does not hear the store" in await holding_hop(settings.kafka, settings.stack.names, target)


async def test_missing_and_differing_topics_are_named(profile: Profile, options: StackOptions) -> None:
    async with running(StackPools(profile, options, TARGETS), asyncio.Event()):
        assert (
            await check_topics(profile.settings.kafka, profile.settings.stack.names, profile.settings.webhooks, TARGETS)
            == "11 topics"
        )
        other = dataclasses.replace(TARGETS[0], version="v9")
        with pytest.raises(UnavailableError, match=r"missing: inferlane\.iris\.v9\.requests"):
            await check_topics(profile.settings.kafka, profile.settings.stack.names, profile.settings.webhooks, [other])
        five = profile.settings.changed(work_partitions=5)
        with pytest.raises(ConfigurationError, match=r"inferlane\.iris\.v1\.requests has 4, not 5"):
            await check_topics(five.kafka, five.stack.names, five.webhooks, TARGETS)
        two = profile.settings.changed(work_partitions=2)
        assert "inferlane.iris.v1.requests has 4 partitions, more than the 2 of the settings" in await check_topics(
            two.kafka, two.stack.names, two.webhooks, TARGETS
        )
        assert "result and wake-up came back; 32 MiB" in await check_store(
            profile.settings.api, profile.settings.store.redis_url, profile.settings.stack.names
        )


async def test_a_store_user_that_may_not_use_the_channels_is_found(profile: Profile, options: StackOptions) -> None:
    """Guards the pub/sub of `check_store`: a write and a read are not all that is used."""
    async with running(StackPools(profile, options, TARGETS), asyncio.Event()):
        async with connect(profile.settings.store.redis_url) as redis:
            await redis.execute_command("ACL", "SETUSER", "narrow", "on", ">word", "~*", "resetchannels", "+@all")
        url = profile.settings.store.redis_url.replace("redis://", "redis://narrow:word@")
        with pytest.raises(UnavailableError, match="channel"):
            await check_store(profile.settings.api, url, profile.settings.stack.names)


async def test_the_bulk_lane_is_tried_and_the_hop_that_holds_it_is_named(
    profile: Profile, options: StackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_BULK_WITHIN_S", 0.5)
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 4))
    target = dataclasses.replace(TARGETS[0], signature=Signature(inputs=(spec,), outputs=()))
    async with running(StackPools(profile, options, TARGETS), asyncio.Event()):
        with pytest.raises(UnavailableError, match=r"the router has not taken it: 1 wait in inferlane\.bulk"):
            await doctor.check_bulk_lane(profile.settings, target, ops_urls={})


async def produce(profile: Profile, topic: str) -> None:
    async with make_producer(profile.settings.kafka) as producer:
        await producer.send_and_wait(topic, b"{}")


async def commit_all(profile: Profile, topic: str, group: str) -> None:
    async with make_consumer(profile.settings.kafka, topic, group=group) as consumer:
        await consumer.getone()
        await consumer.commit()

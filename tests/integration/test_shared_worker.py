"""One process with many versions, on a real broker and a real store."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.identity import foreign_key
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.results import Status
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_feed import MOST_QUEUED_RECORDS
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.version_faults import VersionFaults
from models.adding.publication import write_version
from models.store import write_model
from tests.support.brokers import Broker
from tests.support.fakes.stores import describe_tiny, write_tiny_onnx
from tests.support.parts import embedded_store, eventually, free_port
from workers.main import serve_shared
from workers.roster import Roster, VersionName, write_version_names

pytestmark = pytest.mark.timeout(240)

NAMES = Names()
ROW = b'{"instances": [[1.0, 2.0, 3.0]]}'


class Process:
    """A shared worker of this process, with the models `a`, `b` and `c` in its store, and a `broken` one."""

    def __init__(self, settings: Settings, folder: Path, producer: BatchProducer, store: ResultStore) -> None:
        self.settings = settings
        self.producer = producer
        self.store = store
        self._roster = folder / "roster"
        for model in ("a", "b", "c", "broken"):
            write_version(
                settings.stack.models_dir, model=model, version="v1", write_onnx=write_tiny_onnx, describe=describe_tiny
            )
            write_model(
                settings.stack.models_dir / model, description="", default_version="v1", classes=("x", "y", "z")
            )
        (settings.stack.models_dir / "broken" / "v1" / "model.onnx").write_bytes(b"not what was published")

    def serve(self, *names: VersionName) -> None:
        """Have these versions served from now on."""
        draft = self._roster.with_suffix(".new")
        draft.write_text(write_version_names(names))
        draft.replace(self._roster)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(serve_shared(self.settings, stop, roster=Roster(file=self._roster)))
            try:
                yield
            finally:
                stop.set()

    async def send(self, model: str, count: int, *, lane: Lane = Lane.REQUESTS, row: bytes = ROW) -> Sequence[str]:
        """Write so many records for a version; returns what their results are stored under."""
        ids = [f"{model}-{lane}-{number}" for number in range(count)]
        await self.producer.send(
            OutRecord(NAMES.work_topic(model, "v1", lane), name.encode(), row, [("ce_id", name.encode())])
            for name in ids
        )
        return [foreign_key(b"", name, row) for name in ids]

    async def answered(self, keys: Sequence[str]) -> None:
        """Return when each has a result, which is a success."""

        async def all_there() -> bool:
            return None not in await self.store.get(keys)

        await eventually(all_there)
        assert {result.status for result in await self.store.get(keys) if result} == {Status.SUCCEEDED}

    async def has_committed(self, model: str, offsets: Mapping[Lane, int]) -> bool:
        """Whether the group of a version has committed so much of each lane, as KEDA reads it."""
        reader = BacklogReader(self.settings.kafka)
        group = NAMES.worker_group(model, "v1")
        lanes = {lane: Subscription(NAMES.work_topic(model, "v1", lane), group) for lane in offsets}
        try:
            found = await reader.read(list(lanes.values()))
        finally:
            await reader.close()
        return {lane: found[subscription].committed for lane, subscription in lanes.items()} == offsets

    async def said(self) -> dict[str, dict[str, str]]:
        """What the process says of each version."""
        url = f"http://127.0.0.1:{self.settings.ports.ops_port}/readyz"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                found: dict[str, dict[str, str]] = (await answer.json()).get("versions", {})
                return found
        except aiohttp.ClientError:
            return {}


@pytest.fixture
async def process(broker: Broker, tmp_path: Path) -> AsyncIterator[Process]:
    async with embedded_store() as redis_url, connect(redis_url) as redis:
        settings = broker.settings(
            redis_url=redis_url,
            models_dir=tmp_path / "models",
            default_model="a",
            ops_port=free_port(),
            work_partitions=2,
            ingress_partitions=1,
            arrivals_dir=tmp_path / "s",
        )
        await create_topics(
            settings.kafka,
            settings.stack.names,
            settings.webhooks,
            [(model, "v1") for model in ("a", "b", "c", "broken")],
        )
        producer = BatchProducer(settings.kafka)
        await producer.start()
        store = ResultStore(redis, redis_url=redis_url, result_ttl_s=600, names=NAMES)
        try:
            yield Process(settings, tmp_path, producer, store)
        finally:
            await producer.close()


async def test_every_version_answers_in_both_lanes_and_each_group_has_its_own_offsets(process: Process) -> None:
    """Guards `GroupOffsets`: with the commits of one group for all, nobody could scale a version by its lag."""
    process.serve(("a", "v1"), ("b", "v1"))
    async with process.running():
        await process.answered([*await process.send("a", 30), *await process.send("b", 20)])
        await process.send("a", 5, lane=Lane.BULK)

        await eventually(lambda: process.has_committed("a", {Lane.REQUESTS: 30, Lane.BULK: 5}))
        await eventually(lambda: process.has_committed("b", {Lane.REQUESTS: 20, Lane.BULK: 0}))
    # What it finished is committed when it ends, so the next one begins there.
    process.serve(("a", "v1"))
    await process.send("a", 3)
    async with process.running():
        await eventually(lambda: process.has_committed("a", {Lane.REQUESTS: 33, Lane.BULK: 5}))


async def test_a_backlog_of_one_version_is_answered_whole_and_lets_the_others_pass(process: Process) -> None:
    """Guards the pause of a version with a full queue: unpaused its backlog fills the memory, left so it never ends."""
    backlog = await process.send("a", 3 * MOST_QUEUED_RECORDS)
    process.serve(("a", "v1"), ("b", "v1"))
    async with process.running():
        await process.answered(await process.send("b", 5))
        await process.answered(backlog)
        # Fetched again once there is room, and also after that.
        await process.answered(await process.send("a", 5, row=b'{"instances": [[4.0, 2.0, 3.0]]}'))
        await eventually(lambda: process.has_committed("a", {Lane.REQUESTS: 3 * MOST_QUEUED_RECORDS + 5}))


async def test_versions_come_and_go_while_the_process_runs(process: Process) -> None:
    process.serve(("a", "v1"))
    async with process.running():
        await process.answered(await process.send("a", 2))
        waiting = await process.send("b", 2)
        process.serve(("a", "v1"), ("b", "v1"))
        await process.answered(waiting)
        process.serve(("b", "v1"))

        async def a_is_gone() -> bool:
            return set(await process.said()) == {"b/v1"}

        await eventually(a_is_gone)
        unread = await process.send("a", 4, row=b'{"instances": [[4.0, 2.0, 3.0]]}')
        await process.answered(await process.send("b", 4, row=b'{"instances": [[5.0, 2.0, 3.0]]}'))
        assert await process.store.get(unread) == [None] * 4
        process.serve(("a", "v1"), ("b", "v1"))
        await process.answered(unread)


async def test_a_version_that_cannot_load_is_shown_with_its_reason_and_harms_nobody(process: Process) -> None:
    process.serve(("a", "v1"), ("broken", "v1"), ("nowhere", "v9"))
    async with process.running():
        await process.answered(await process.send("a", 2))

        async def both_failed() -> bool:
            said = await process.said()
            return [said.get(name, {}).get("state") for name in ("broken/v1", "nowhere/v9")] == ["failed"] * 2

        await eventually(both_failed)
        said = await process.said()
        assert said["a/v1"]["state"] == "serving"
        assert "digest" in said["broken/v1"]["reason"] or "model.onnx" in said["broken/v1"]["reason"]
        async with connect(process.settings.store.redis_url) as redis:
            faults = VersionFaults(redis, redis_url=process.settings.store.redis_url, names=NAMES)
            assert set(await faults.read([("a", "v1"), ("broken", "v1")])) == {("broken", "v1")}


async def test_a_version_with_workers_of_its_own_is_left_to_them(process: Process, broker: Broker) -> None:
    """Guards the commit before the first fetch: without it two pools would answer the same records for ever."""
    topic, group = NAMES.work_topic("b", "v1", Lane.REQUESTS), NAMES.worker_group("b", "v1")
    own = LaneConsumer(process.settings.kafka, topic=topic, group=group)
    await own.start()
    try:

        async def has_joined() -> bool:
            await own.fetch(max_records=1, timeout_s=0.1)
            return own.has_joined

        await eventually(has_joined)
        process.serve(("a", "v1"), ("b", "v1"))
        async with process.running():
            keys = await process.send("b", 2)
            await process.answered(await process.send("a", 2))
            batch = None
            while batch is None:
                batch = await own.fetch(max_records=10, timeout_s=1)
            assert await process.store.get(keys) == [None, None]
            await own.close()
            if not broker.is_embedded:
                # Whose groups keep members that have left.
                await process.answered(keys)
    finally:
        await own.close()

"""Who reads a result, through a real API, broker and store; the records' results are put here in place of a worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiokafka import ConsumerRecord, TopicPartition

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import CALLER, read_headers
from inferlane.contracts.results import Result, Status, foreign_key_of
from inferlane.contracts.wire.v2 import ALL_AS_BYTES, encode_response
from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.kafka.topic_admin import create_topics
from inferlane.runtime.redis.results import ResultStore, connect
from producer_api.main import serve
from tests.integration._parts import embedded_store, eventually, free_port, is_ready
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.fakes.records import FakeRecord
from tests.support.fakes.stores import write_tiny_store

pytestmark = pytest.mark.timeout(180)

BODY = {"instances": [[1.0, 2.0, 3.0]]}


@dataclass(frozen=True, kw_only=True)
class Api:
    settings: Settings
    session: aiohttp.ClientSession
    store: ResultStore
    keys: dict[str, str]

    async def call(self, method: str, path: str, *, key: str | None, body: Any = None, **headers: str) -> Any:
        """The status and the body."""
        if key is not None:
            headers["authorization"] = f"Bearer {self.keys[key]}"
        url = f"http://127.0.0.1:{self.settings.api_port}{path}"
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def submit(self, key: str | None) -> str:
        status, body = await self.call("POST", "/v1/models/predict", key=key, body=BODY, Prefer="respond-async")
        assert status == 202, body
        return str(body["request_id"])

    async def record_of(self, request_id: str) -> ConsumerRecord:
        """The request's record on its topic."""
        consumer = make_consumer(self.settings, group=None)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self.settings.names.ingress[Lane.REQUESTS], 0)])
            async with asyncio.timeout(60):
                async for record in consumer:
                    if dict(record.headers)["ce_id"].decode() == request_id:
                        return record
        finally:
            await consumer.stop()
        raise AssertionError(request_id)

    async def answer(self, record: Any, label: int) -> None:
        """Store what a worker would: the record's result."""
        headers = read_headers(record)
        outputs = {"label": np.array([label], np.int64)}
        content, length = encode_response(
            outputs, model="tiny", version="v1", request_id=headers.request_id, form=ALL_AS_BYTES
        )
        result = Result(
            request_id=headers.request_id,
            status=Status.SUCCEEDED,
            model="tiny",
            version="v1",
            rows=1,
            content=content,
            json_length=length,
            foreign_key=foreign_key_of(headers),
            caller=headers.caller,
        )
        await self.store.put([result])


@asynccontextmanager
async def running_api(tmp_path: Path, *, with_keys: bool) -> AsyncIterator[Api]:
    write_tiny_store(tmp_path / "models")
    scopes = {"a": Scope.PREDICT, "b": Scope.PREDICT, "ops": Scope.ALL_REQUESTS, "root": Scope.ADMIN}
    file = tmp_path / "keys.toml"
    keys = {name: create_key(file, name=name, scopes=[scope]) for name, scope in scopes.items()} if with_keys else {}
    broker = EmbeddedBroker()
    await asyncio.to_thread(broker.open)
    async with AsyncExitStack() as stack:
        stack.callback(broker.close)
        redis_url = await stack.enter_async_context(embedded_store())
        settings = broker.settings(
            ingress_partitions=1,
            work_partitions=1,
            redis_url=redis_url,
            models_dir=tmp_path / "models",
            default_model="tiny",
            api_port=free_port(),
            api_keys_file=file if with_keys else None,
        )
        await create_topics(settings, [("tiny", "v1")])
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(settings, stop))
        redis = await stack.enter_async_context(connect(redis_url))
        store = ResultStore(redis, redis_url=redis_url, result_ttl_s=60, names=settings.names)
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def is_up() -> bool:
            assert not serving.done(), serving.exception()
            return await is_ready(f"http://127.0.0.1:{settings.api_port}")

        try:
            await eventually(is_up)
            yield Api(settings=settings, session=session, store=store, keys=keys)
        finally:
            stop.set()
            await serving


@pytest.mark.parametrize("way", ["another source", "no source", "all but the payload", "another caller"])
async def test_a_record_with_the_id_of_a_request_does_not_answer_it(tmp_path: Path, way: str) -> None:
    """Guards the key of a result: kept under the bare id, whoever is first answers for all (seen to fail so)."""
    async with running_api(tmp_path, with_keys=False) as api:
        request_id = await api.submit(None)
        own = await api.record_of(request_id)
        headers, value = dict(own.headers), own.value
        match way:
            case "another source":
                headers = {"ce_id": request_id.encode(), "ce_source": b"elsewhere"}
            case "no source":
                headers = {"ce_id": request_id.encode()}
            case "all but the payload":
                value += b" "
            case _:
                headers[CALLER] = b"somebody"
        await api.answer(FakeRecord(value=value, headers=tuple(headers.items())), 2)
        assert (await api.call("GET", f"/v1/predictions/{request_id}", key=None))[1]["status"] == "QUEUED"
        await api.answer(own, 1)
        status, body = await api.call("GET", f"/v1/predictions/{request_id}", key=None)
        assert (status, body["predictions"]) == (200, ["b"])


async def test_a_key_reads_and_takes_back_its_own_requests_alone(tmp_path: Path) -> None:
    """Guards the look at the caller in `_find`: taken out, `b` reads what `a` asked."""
    async with running_api(tmp_path, with_keys=True) as api:
        request_id = await api.submit("a")
        path = f"/v1/predictions/{request_id}"
        unknown = await api.call("GET", f"/v1/predictions/{'0' * 32}", key="b")
        for method in ("GET", "DELETE"):
            status, body = await api.call(method, path, key="b")
            # Nothing tells another's id from one never seen.
            assert (status, body["detail"].replace(request_id, "0" * 32)) == (404, unknown[1]["detail"])
        for key in ("a", "ops", "root"):
            assert (await api.call("GET", path, key=key))[1]["status"] == "QUEUED"
        own = await api.record_of(request_id)
        await api.answer(own, 1)
        seen = {key: (await api.call("GET", path, key=key))[0] for key in api.keys}
        assert seen == {"a": 200, "b": 404, "ops": 200, "root": 200}

        taken_back = await api.submit("a")
        status, body = await api.call("DELETE", f"/v1/predictions/{taken_back}", key="a")
        assert (status, body["error"]["code"]) == (200, "cancelled")
        assert (await api.call("GET", f"/v1/predictions/{taken_back}", key="b"))[0] == 404


async def test_what_was_produced_to_kafka_is_read_by_its_source_and_with_the_scope_for_it(tmp_path: Path) -> None:
    async with running_api(tmp_path, with_keys=True) as api:
        mine = FakeRecord(value=b"mine", headers=(("ce_id", b"order-17"), ("ce_source", b"shop")))
        await api.answer(FakeRecord(value=b"other", headers=(("ce_id", b"order-17"), ("ce_source", b"other"))), 2)
        await api.answer(mine, 1)
        path = "/v1/predictions/order-17"
        status, body = await api.call("GET", f"{path}?source=shop", key="ops")
        assert (status, body["predictions"]) == (200, ["b"])
        assert (await api.call("GET", path, key="ops"))[0] == 404
        assert (await api.call("GET", f"{path}?source=shop", key="a"))[0] == 404
        # Two payloads of one name: nobody can tell which is asked for, so neither is told.
        await api.answer(FakeRecord(value=b"forged", headers=mine.headers), 2)
        assert (await api.call("GET", f"{path}?source=shop", key="ops"))[0] == 404


async def test_a_position_is_no_id(tmp_path: Path) -> None:
    async with running_api(tmp_path, with_keys=False) as api:
        record = FakeRecord(value=b"x", offset=31)
        await api.answer(record, 1)
        assert (await api.call("GET", "/v1/predictions/inferlane.requests-0-31", key=None))[0] == 404
        # Claimed before, it is still not what the record at that position reads.
        claim = FakeRecord(value=b"claim", headers=(("ce_id", read_headers(record).request_id.encode()),))
        assert read_headers(claim).key != read_headers(record).key

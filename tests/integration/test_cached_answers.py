"""The response cache of a real API over a real broker and store; a worker's part is played here, and counted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import read_headers
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2 import ALL_AS_BYTES, encode_response
from inferlane.errors import ModelError
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.redis.connection import connect
from tests.support.parts import eventually
from tests.support.running_api import RunningApi, running_api

pytestmark = pytest.mark.timeout(180)

ROW, OTHER = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]
PREDICT = "/v1/models/predict"
WAIT_S = 30.0


class Worker:
    """Answers each request with the number of requests before it, so that no two answers are the same."""

    def __init__(self, api: RunningApi) -> None:
        self._api = api
        self.computed = 0
        self.fails = False

    async def run(self) -> None:
        consumer = make_consumer(self._api.settings.kafka, group=None)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self._api.settings.stack.names.ingress[Lane.REQUESTS], 0)])
            await consumer.seek_to_beginning()
            async for record in consumer:
                await self._answer(record)
        finally:
            await consumer.stop()

    async def _answer(self, record: Any) -> None:
        headers = read_headers(record)
        outputs = {"label": np.array([self.computed % 3], np.int64), "number": np.array([self.computed], np.int64)}
        self.computed += 1
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
        )
        if self.fails:
            result = Result.failed(headers, ModelError("it broke"), now_s=0.0)
        instance = dict(record.headers)["ce_replyto"].decode()
        await self._api.store.put([result], wake={instance: [result]})


@asynccontextmanager
async def cached_api(tmp_path: Path, **overrides: object) -> AsyncIterator[tuple[RunningApi, Worker]]:
    async with running_api(tmp_path, **{"response_cache": "tiny=60", **overrides}) as api:
        worker = Worker(api)
        running = asyncio.create_task(worker.run())
        try:
            yield api, worker
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def predict(api: RunningApi, row: list[float], **headers: str) -> tuple[int, Any, bool]:
    """The status, what was predicted, and whether the response says that it was kept."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"instances": [row], "timeout_s": WAIT_S}
    async with api.session.post(api.url + PREDICT, json=body, headers=named) as answer:
        kept = answer.headers.get("cache-status") == "inferlane; hit"
        return answer.status, (await answer.json(content_type=None)).get("predictions"), kept


async def kept_places(api: RunningApi) -> dict[str, int]:
    """The seconds to live of each place of the cache that holds an answer."""
    async with connect(api.settings.store.redis_url) as redis:
        keys = [key.decode() async for key in redis.scan_iter(match=api.settings.stack.names.store_key("cache", "*"))]
        return {key: await redis.ttl(key) for key in keys}


async def is_kept(api: RunningApi, count: int) -> None:
    """Return once so many answers are kept; they are written after the response."""

    async def there_are() -> bool:
        return len(await kept_places(api)) >= count

    await eventually(there_are)


async def test_the_same_rows_are_answered_again_without_the_queue(tmp_path: Path) -> None:
    async with cached_api(tmp_path) as (api, worker):
        first = await predict(api, ROW)
        await is_kept(api, 1)
        again = await predict(api, ROW)
        other = await predict(api, OTHER)
        assert first[::2] == other[::2] == (200, False)
        assert again == (200, first[1], True)
        assert other[1] != first[1]
        assert worker.computed == 2
        assert all(0 < ttl_s <= 60 for ttl_s in (await kept_places(api)).values())


async def test_a_call_in_the_other_protocol_or_with_the_version_named_is_the_same_call(tmp_path: Path) -> None:
    async with cached_api(tmp_path) as (api, worker):
        await predict(api, ROW)
        await is_kept(api, 1)
        v2 = {"inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP32", "data": ROW}]}
        for path, body in (
            ("/v2/models/tiny/infer", v2),
            ("/v2/models/tiny/versions/v1/infer", v2),
            (PREDICT, {"instances": [ROW], "version": "v1"}),
        ):
            status, answered = await api.call("POST", path, body)
            assert status == 200, answered
        assert worker.computed == 1


@pytest.mark.parametrize("headers", [{"Idempotency_Key": "k{}"}, {"Prefer": "respond-async"}])
async def test_a_request_that_may_be_asked_for_again_is_always_made(tmp_path: Path, headers: dict[str, str]) -> None:
    async with cached_api(tmp_path) as (api, worker):
        await predict(api, ROW)
        await is_kept(api, 1)
        before = worker.computed
        for number in range(2):
            named = {name: value.format(number) for name, value in headers.items()}
            status, _, kept = await predict(api, ROW, **named)
            assert status in {200, 202}
            assert not kept

        async def both_are_computed() -> bool:
            return worker.computed == before + 2

        await eventually(both_are_computed)


async def test_the_number_of_answers_is_bounded(tmp_path: Path) -> None:
    """Guards the place of a key: with one place the second answer displaces the first, and neither is the other's."""
    async with cached_api(tmp_path, response_cache_entries=1) as (api, worker):
        first = await predict(api, ROW)
        await is_kept(api, 1)
        assert (await predict(api, ROW))[2]
        other = await predict(api, OTHER)
        assert not other[2]

        async def other_is_kept() -> bool:
            return (await predict(api, OTHER))[2]

        await eventually(other_is_kept)
        assert len(await kept_places(api)) == 1
        again = await predict(api, ROW)
        assert not again[2]
        assert again[1] != first[1]
        assert worker.computed >= 3


async def test_an_error_or_a_large_answer_is_not_kept(tmp_path: Path) -> None:
    async with cached_api(tmp_path, response_cache_entry_bytes=64) as (api, worker):
        worker.fails = True
        assert (await predict(api, ROW))[0] == 500
        worker.fails = False
        # More than 64 bytes.
        assert (await predict(api, ROW))[::2] == (200, False)
        assert (await predict(api, ROW))[::2] == (200, False)
        assert worker.computed == 3
        assert await kept_places(api) == {}


async def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    async with cached_api(tmp_path, response_cache="") as (api, worker):
        assert not (await predict(api, ROW))[2]
        assert not (await predict(api, ROW))[2]
        assert worker.computed == 2
        assert await kept_places(api) == {}

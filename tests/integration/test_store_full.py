"""A store without room, real: nobody is let in whose result it could not keep, and what was delivered goes first."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from aiokafka import TopicPartition
from redis.asyncio import Redis
from structlog.testing import capture_logs

from control_plane.local.doctor_checks import check_store
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import read_headers
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2 import ALL_AS_BYTES, encode_response
from inferlane.errors import StoreFullError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.store_probe import read_store_memory
from producer_api.predict.store_capacity import StoreCapacity
from tests.support.parts import embedded_store_process, eventually
from tests.support.running_api import RunningApi, running_api

pytestmark = pytest.mark.timeout(180)

DELIVERED_S = 77


async def fill(redis: Redis, *, to_share: float) -> None:
    """Write until so much of the store's memory is used."""
    number = 0
    while (await read_store_memory(redis)).share < to_share:
        await redis.set(f"junk:{number}", b"x" * 256 * 1024)
        number += 1


async def test_nothing_is_accepted_while_the_store_has_no_room_and_everything_once_it_has(tmp_path: Path) -> None:
    """Guards `StoreCapacity.admit`: taken out, every caller gets 202 for as long as the store is full."""
    async with running_api(tmp_path) as api, connect(api.settings.store.redis_url) as redis:
        assert (await api.predict())[0] == 202
        # A little more than that: what the store uses for its clients comes and goes.
        await fill(redis, to_share=api.settings.api.store_full_share + 0.02)

        async def is_refused() -> bool:
            status, body = await api.predict(Prefer="respond-async")
            return status == 503 and body["code"] == "store_full"

        await eventually(is_refused)
        status, body = await api.predict()
        assert (status, body["code"], body["retryable"]) == (503, "store_full", True)
        assert "INFERLANE_STORE_FULL_SHARE" in body["detail"]
        with pytest.raises(StoreFullError, match="maxmemory"):
            await check_store(api.settings.api, api.settings.store.redis_url, api.settings.stack.names)
        await redis.delete(*[key async for key in redis.scan_iter("junk:*")])

        async def is_let_in() -> bool:
            return (await api.predict(Prefer="respond-async"))[0] == 202

        await eventually(is_let_in)
        assert "MiB" in await check_store(api.settings.api, api.settings.store.redis_url, api.settings.stack.names)


async def test_a_store_at_its_limit_is_said_to_be_full_and_not_to_be_away() -> None:
    """Guards the look at `OutOfMemoryError`: "does not answer, is it running?" sends whoever reads it the wrong way."""
    async with embedded_store_process(maxmemory_mib=8) as (url, _), connect(url) as redis:
        store = ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())

        async def fill_up() -> None:
            for number in range(20):
                fields = {"request_id": str(number), "status": Status.SUCCEEDED, "model": "tiny", "version": "v1"}
                await store.put([Result(**fields, content=b"x" * 2**20)])  # type: ignore[arg-type]  # fields of the struct

        with pytest.raises(StoreFullError, match="is full"):
            await fill_up()


async def test_a_right_to_ask_for_the_memory_that_is_missing_is_logged_once() -> None:
    """A store that grew full was not noticed, and the only line that said why was at DEBUG."""
    async with embedded_store_process() as (url, _), connect(url) as redis:
        await redis.execute_command(
            "ACL", "SETUSER", "blind", "on", "nopass", "allkeys", "+@all", "-info", "-@dangerous"
        )
        await redis.execute_command("AUTH", "blind", "x")
        capacity = StoreCapacity(load_settings().api, url, redis)
        with capture_logs() as logs:
            await capacity._look()
            await capacity._look()
        assert [(line["event"], line["log_level"]) for line in logs] == [("store_memory_not_read", "error")]


async def answer(api: RunningApi, offset: int) -> str:
    """Store the result of the request at `offset`, as a worker would; returns its id."""
    consumer = make_consumer(api.settings.kafka, group=None)
    await consumer.start()
    try:
        partition = TopicPartition(api.settings.stack.names.ingress[Lane.REQUESTS], 0)
        consumer.assign([partition])
        consumer.seek(partition, offset)
        async with asyncio.timeout(60):
            record = await consumer.getone(partition)
    finally:
        await consumer.stop()
    headers = read_headers(record)
    outputs = {"probabilities": np.zeros((1, 3), np.float32)}
    content, length = encode_response(outputs, model="tiny", version="v1", form=ALL_AS_BYTES)
    result = Result(
        request_id=headers.request_id,
        status=Status.SUCCEEDED,
        model="tiny",
        version="v1",
        rows=1,
        content=content,
        json_length=length,
        caller=headers.caller,
    )
    await api.store.put([result], wake={str(headers.reply_to): [result]})
    return headers.request_id


async def test_a_result_that_was_delivered_lives_shorter_unless_its_call_may_come_again(tmp_path: Path) -> None:
    """Guards `DeliveredResults.note`: without it a store fills up with what nobody will ever ask for."""
    async with (
        running_api(tmp_path, delivered_result_ttl_s=DELIVERED_S) as api,
        connect(api.settings.store.redis_url) as redis,
    ):
        keys = []
        for offset, headers in enumerate(({"Idempotency_Key": "k"}, {})):
            calling = asyncio.create_task(api.predict(wait_s=50, **headers))
            request_id = await answer(api, offset)
            status, body = await calling
            assert (status, body["request_id"]) == (200, request_id)
            keys.append(api.settings.stack.names.store_key("result", request_id))

        async def is_shortened() -> bool:
            return 0 < await redis.ttl(keys[1]) <= DELIVERED_S

        await eventually(is_shortened)
        assert await redis.ttl(keys[0]) > DELIVERED_S

"""Answers the requests of a running API with their own rows, in place of router and worker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_LENGTH
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2 import decode_request, encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from tests.support.running_api import RunningApi


@asynccontextmanager
async def echoing(api: RunningApi) -> AsyncIterator[None]:
    """Store, for each request that comes while the block runs, a result with its rows as `probabilities`."""
    settings = api.settings
    partition = TopicPartition(settings.stack.names.ingress[Lane.REQUESTS], 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    consumer.assign([partition])
    await consumer.start()
    task = asyncio.create_task(_echo(api, consumer))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()


async def _echo(api: RunningApi, consumer: AIOKafkaConsumer) -> None:
    while True:
        for records in (await consumer.getmany(timeout_ms=100)).values():
            wake: dict[str, list[Result]] = {}
            for record in records:
                headers = dict(record.headers)
                result = _result_of(headers, record.value)
                wake.setdefault(headers["ce_replyto"].decode(), []).append(result)
            await api.store.put([result for each in wake.values() for result in each], wake=wake)


def _result_of(headers: dict[str, bytes], payload: bytes) -> Result:
    request_id = headers["ce_id"].decode()
    rows = decode_request(payload, int(headers[JSON_LENGTH])).tensors["input"]
    content, length = encode_response({"probabilities": rows}, model="tiny", version="v1", form=ALL_AS_BYTES)
    return Result(
        request_id=request_id,
        status=Status.SUCCEEDED,
        model="tiny",
        version="v1",
        rows=len(rows),
        content=content,
        json_length=length,
        finished_s=time.time(),
    )

"""The HTTP side: publishes a body as it came, waits for the reply with the same id on a channel of Redis."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI, Request, Response
from faststream.kafka import KafkaBroker
from redis.asyncio import Redis

CHANNEL = "replies"

broker = KafkaBroker(os.environ["BENCH_KAFKA"], logger=None, apply_types=False)
redis = Redis.from_url(os.environ["BENCH_REDIS"])
waiting: dict[str, asyncio.Future[bytes]] = {}
decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def listen() -> None:
    """Hand each reply of a batch to the call that waits for it."""
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(CHANNEL)
        async for message in channel.listen():
            for request_id, answer in decode(message["data"]).items():
                future = waiting.get(request_id)
                if future is not None and not future.done():
                    future.set_result(bytes(answer))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with broker:
        await broker.start()
        listening = asyncio.create_task(listen())
        yield
        listening.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    request_id = uuid.uuid4().hex
    future = waiting[request_id] = asyncio.get_running_loop().create_future()
    try:
        await broker.publish(request_id.encode() + await request.body(), "requests")
        return Response(await asyncio.wait_for(future, 60), media_type="application/json")
    finally:
        del waiting[request_id]


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}

"""The HTTP side: publishes a request, waits for the reply with the same id."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from faststream.kafka import KafkaBroker
from pydantic import BaseModel

FETCH_WAIT_MS = int(os.environ["BENCH_FETCH_WAIT_MS"])
broker = KafkaBroker(os.environ["BENCH_KAFKA"])
waiting: dict[str, asyncio.Future[Any]] = {}


@broker.subscriber("replies", batch=True, fetch_max_wait_ms=FETCH_WAIT_MS)
async def on_replies(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        future = waiting.get(answer.pop("id"))
        if future is not None and not future.done():
            future.set_result(answer)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with broker:
        await broker.start()
        yield


app = FastAPI(lifespan=lifespan)


class Body(BaseModel):
    """Rows of features."""

    instances: list[list[float]]


@app.post("/predict")
async def predict(body: Body) -> Any:
    request_id = uuid.uuid4().hex
    future = waiting[request_id] = asyncio.get_running_loop().create_future()
    try:
        await broker.publish({"id": request_id, "instances": body.instances}, "requests")
        return await asyncio.wait_for(future, 60)
    finally:
        del waiting[request_id]


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}

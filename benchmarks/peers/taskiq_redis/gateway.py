"""The HTTP side: sends a task and waits for its result."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from tasks import broker, infer


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=lifespan)


class Body(BaseModel):
    """Rows of features."""

    instances: list[list[float]]


@app.post("/predict")
async def predict(body: Body) -> Any:
    task = await infer.kiq(body.instances)
    # taskiq asks the store for the result; its default is every 0.2 s, which would be all that is measured.
    result = await task.wait_result(check_interval=0.005, timeout=60)
    result.raise_for_error()
    return result.return_value


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}

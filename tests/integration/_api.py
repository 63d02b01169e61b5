"""An API that is real, with a real broker and store, and nobody behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.topic_admin import create_topics
from inferlane.runtime.redis.results import ResultStore, connect
from producer_api.main import serve
from tests.integration._parts import embedded_store_process, eventually, free_port, is_ready
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.fakes.stores import write_tiny_store

WAIT_S = 0.3
CALL: dict[str, Any] = {"instances": [[1.0, 2.0, 3.0]], "timeout_s": WAIT_S}


@dataclass(frozen=True, kw_only=True)
class Api:
    settings: Settings
    session: aiohttp.ClientSession
    store: ResultStore
    pids: dict[str, int]

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        url = f"http://127.0.0.1:{self.settings.api_port}{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, url, json=body, headers=named) as answer:
            return answer.status, await answer.json(content_type=None)

    async def predict(self, *, wait_s: float = WAIT_S, **headers: str) -> tuple[int, dict[str, Any]]:
        return await self.call("POST", "/v1/models/predict", {**CALL, "timeout_s": wait_s}, **headers)


@asynccontextmanager
async def running_api(tmp_path: Path, **overrides: object) -> AsyncIterator[Api]:
    """An API with nobody behind it: no router takes its requests, so no result comes but what a test stores."""
    write_tiny_store(tmp_path / "models")
    broker = EmbeddedBroker()
    await asyncio.to_thread(broker.open)
    async with AsyncExitStack() as stack:
        stack.callback(broker.close)
        redis_url, store_pid = await stack.enter_async_context(embedded_store_process())
        settings = broker.settings(
            ingress_partitions=1,
            work_partitions=1,
            redis_url=redis_url,
            models_dir=tmp_path / "models",
            default_model="tiny",
            api_port=free_port(),
            kafka_request_timeout_ms=60_000,
            **{"default_wait_s": 1.0, "drain_deadline_s": 1.0, **overrides},
        )
        await create_topics(settings, [("tiny", "v1")])
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(settings, stop))
        redis = await stack.enter_async_context(connect(redis_url))
        store = ResultStore(redis, redis_url=redis_url, result_ttl_s=600, names=settings.names)
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def is_up() -> bool:
            assert not serving.done(), serving.exception()
            return await is_ready(f"http://127.0.0.1:{settings.api_port}")

        try:
            await eventually(is_up)
            yield Api(settings=settings, session=session, store=store, pids={"broker": broker.pid, "store": store_pid})
        finally:
            stop.set()
            await serving

"""A real API over a real broker and a real store, with no router and no worker behind it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from control_plane.topic_admin import create_topics
from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.config import Settings
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.runfile import base_url
from producer_api.main import serve
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import embedded_store_process, eventually, free_port, is_ready

WAIT_S = 0.3
# The waits of an API that hostile calls are sent to, by many clients at once.
SHORT_WAITS = {"default_wait_s": 0.3, "max_wait_s": 0.3}
CALL: dict[str, Any] = {"instances": [[1.0, 2.0, 3.0]], "timeout_s": WAIT_S}


@dataclass(frozen=True, kw_only=True)
class RunningApi:
    """Where the API is, the store behind it, and its keys by name (none: it asks for none)."""

    settings: Settings
    session: aiohttp.ClientSession
    store: ResultStore
    pids: dict[str, int]
    keys: dict[str, str] = field(default_factory=dict)
    # Set it to let the API drain and end, before the block ends.
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return base_url("127.0.0.1", self.settings.api.port, tls=self.settings.api.ssl_certfile is not None)

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the body. `key` names one of `keys`; header names take `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["authorization"] = f"Bearer {self.keys[key]}"
        async with self.session.request(method, self.url + path, json=body, headers=named) as answer:
            return answer.status, await answer.json(content_type=None)

    async def predict(self, *, wait_s: float = WAIT_S, **headers: str) -> tuple[int, dict[str, Any]]:
        return await self.call("POST", "/v1/models/predict", {**CALL, "timeout_s": wait_s}, **headers)


@asynccontextmanager
async def serving(port: int, stop: asyncio.Event, *services: Coroutine[Any, Any, None]) -> AsyncIterator[str]:
    """Run an API and what else there is until the block ends; yields the URL of the port when it is ready there."""
    tasks = [asyncio.create_task(service) for service in services]
    url = f"http://127.0.0.1:{port}"

    async def is_up() -> bool:
        assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
        return await is_ready(url)

    try:
        await eventually(is_up)
        yield url
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def running_api(
    tmp_path: Path, *, scopes: Mapping[str, Scope] | None = None, **overrides: object
) -> AsyncIterator[RunningApi]:
    """Run an API with nobody behind it: a request stays queued until a test stores its result.

    `scopes`: a key of each name with that scope is made; without any, the API asks for no key.
    """
    write_tiny_store(tmp_path / "models")
    file = tmp_path / "keys.toml"
    keys = {name: create_key(file, name=name, scopes=[scope]) for name, scope in (scopes or {}).items()}
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
            ops_port=free_port(),
            api_keys_file=file if keys else None,
            kafka_request_timeout_ms=60_000,
            **{"default_wait_s": 1.0, "drain_deadline_s": 1.0, **overrides},
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("tiny", "v1")])
        stop = asyncio.Event()
        redis = await stack.enter_async_context(connect(redis_url))
        store = ResultStore(redis, redis_url=redis_url, result_ttl_s=600, names=settings.stack.names)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        # With TLS, health is asked at a port without it.
        asked = settings.api.port if settings.api.ssl_certfile is None else settings.ports.ops_port
        await stack.enter_async_context(serving(asked, stop, serve(settings, stop)))
        pids = {"broker": broker.pid, "store": store_pid}
        yield RunningApi(settings=settings, session=session, store=store, pids=pids, keys=keys, stop=stop)

"""A whole API over a real broker and a real store, with no router and no worker behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.kafka.topic_admin import create_topics
from producer_api.main import serve
from tests.integration._parts import embedded_store, eventually, free_port, is_ready
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.fakes.stores import write_tiny_store


@asynccontextmanager
async def running_api(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """Yields the URL of an API and a key that may everything."""
    write_tiny_store(tmp_path / "models")
    key = create_key(tmp_path / "keys.toml", name="tester", scopes=[Scope.ADMIN])
    broker = EmbeddedBroker()
    await asyncio.to_thread(broker.open)
    async with AsyncExitStack() as stack:
        stack.callback(broker.close)
        redis_url = await stack.enter_async_context(embedded_store())
        options = broker.settings(
            ingress_partitions=1,
            work_partitions=1,
            redis_url=redis_url,
            models_dir=tmp_path / "models",
            default_model="tiny",
            api_port=free_port(),
            api_keys_file=tmp_path / "keys.toml",
            default_wait_s=0.3,
            max_wait_s=0.02,
        )
        await create_topics(options, [("tiny", "v1")])
        url = f"http://127.0.0.1:{options.api_port}"
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(options, stop))

        async def is_up() -> bool:
            assert not serving.done(), serving.result()
            return await is_ready(url)

        try:
            await eventually(is_up)
            yield url, key
        finally:
            stop.set()
            await serving

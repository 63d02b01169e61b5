"""A router whose state path is real and whose data path does nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.lag import ConsumerHealth, ConsumerState
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.window_store import WindowStore
from inferlane.runtime.retry import Retrier, SystemClock
from router.faust_app.app import RouterApp, run_app
from router.window_publisher import WindowPublisher


class IdleForwarder:
    """A data path with nothing to forward."""

    def __init__(self) -> None:
        self.has_drained = False

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.has_drained = True

    def ready(self) -> Mapping[str, bool]:
        return {"requests_lane": True}

    def live(self) -> Mapping[str, bool]:
        return {"requests_progress": True}

    def health(self) -> Mapping[str, ConsumerHealth]:
        return {"requests": ConsumerHealth(state=ConsumerState.IDLE, lag_records=0, still_s=0.0)}


@asynccontextmanager
async def running_router(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> AsyncIterator[tuple[RouterApp, IdleForwarder]]:
    forwarder = IdleForwarder()
    window_publisher = WindowPublisher(
        settings.outcomes,
        settings.kafka,
        settings.stack.names,
        store=store,
        producer=producer,
        retrier=Retrier(),
        clock=SystemClock(),
    )
    app = RouterApp(
        settings.outcomes, settings.kafka, settings.stack.names, data_path=forwarder, window_publisher=window_publisher
    )
    stop = asyncio.Event()
    running = asyncio.create_task(run_app(app, stop))
    try:
        yield app, forwarder
    finally:
        stop.set()
        await running

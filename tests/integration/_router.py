"""A router whose state path is real and whose data path does nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from inferlane.clock import SystemClock
from inferlane.config import Settings
from inferlane.kafka.producing import BatchProducer
from inferlane.window_store import WindowStore
from router.app import RouterApp
from router.main import run_app
from router.state_path import StatePath


class IdleForwarder:
    """A data path with nothing to forward."""

    def __init__(self) -> None:
        self.has_drained = False

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.has_drained = True

    def ready(self) -> Mapping[str, bool]:
        return {"requests_lane": True}


@asynccontextmanager
async def running_router(
    settings: Settings, producer: BatchProducer, store: WindowStore
) -> AsyncIterator[tuple[RouterApp, IdleForwarder]]:
    forwarder = IdleForwarder()
    state_path = StatePath(settings, store=store, producer=producer, clock=SystemClock())
    app = RouterApp(settings, data_path=forwarder, state_path=state_path)
    stop = asyncio.Event()
    running = asyncio.create_task(run_app(app, stop))
    try:
        yield app, forwarder
    finally:
        stop.set()
        await running

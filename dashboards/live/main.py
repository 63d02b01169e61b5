"""The dashboard process, wired."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aiohttp
import structlog

from dashboards.live.api import Api
from dashboards.live.app import build_app
from dashboards.live.feed import Feed
from dashboards.live.guard import refuse_open_network
from dashboards.live.letters import LetterBox
from dashboards.live.observer import Observer, Parts
from inferlane.runtime.clock import SystemClock
from inferlane.runtime.http.serving import serve_http
from inferlane.runtime.kafka.backlog import BacklogReader
from inferlane.runtime.loopback import base_url, is_loopback
from inferlane.runtime.runfile import RunFile

if TYPE_CHECKING:
    import asyncio

    from inferlane.runtime.config import Settings

log = structlog.get_logger(__name__)

# An open page is told to go by the end of its stream; whoever does not go is cut off.
_STREAMS_END_WITHIN_S = 3


async def serve(settings: "Settings", stop: "asyncio.Event") -> None:
    """Serve the page until `stop` is set. Needs no part to be there: the page says which is missing.

    Raises:
        ConfigurationError: the port is taken, or the page would be open to the network.
    """
    refuse_open_network(settings)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        api = Api(session, settings.api_url or base_url(settings.api_host, settings.api_port), key=settings.api_key)
        backlog = BacklogReader(settings)
        stack.push_async_callback(backlog.close)
        letters = LetterBox(settings, clock=clock)
        parts = Parts(
            api=api,
            backlog=backlog,
            letters=letters,
            run_file=RunFile(settings.state_dir),
            names=settings.names,
        )
        observer = Observer(parts, clock=clock)
        feed = Feed(observer.look, lambda: observer.history)
        app = build_app(
            feed,
            api,
            loopback_only=is_loopback(settings.dashboard_host),
            allowed_hosts=settings.known_hosts,
        )
        http = serve_http(
            app,
            settings,
            host=settings.dashboard_host,
            port=settings.dashboard_port,
            timeout_graceful_shutdown=_STREAMS_END_WITHIN_S,
        )
        port = await stack.enter_async_context(http)
        await feed.start()
        # Before the server, which waits for the streams that this ends.
        stack.push_async_callback(feed.close)
        log.info("dashboard_started", host=settings.dashboard_host, port=port, api=api.base_url)
        await stop.wait()
    log.info("dashboard_stopped")

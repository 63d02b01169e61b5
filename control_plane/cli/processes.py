"""`inferlane api`, `router`, `worker` and `dashboard`: one process each, as supervisor and images start them."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from inferlane.runtime.config import load_settings
from inferlane.runtime.logs import configure_logs
from inferlane.runtime.service import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferlane.runtime.config import Settings


def api() -> None:
    """Serve HTTP: requests to the topic, results to the client."""
    from producer_api.main import serve  # noqa: PLC0415 - each process loads only its own service

    _run("api", serve)


def router() -> None:
    """Route: requests to the topic of a version, outcomes to the windows."""
    from router.main import serve  # noqa: PLC0415 - each process loads only its own service

    _run("router", serve)


def worker(
    model: Annotated[str, typer.Option(help="The model to serve.")],
    version: Annotated[str, typer.Option(help="The version of it.")],
) -> None:
    """Infer: one member of the pool of one version."""
    from workers.main import serve  # noqa: PLC0415 - each process loads only its own service

    async def serve_version(settings: "Settings", stop: asyncio.Event) -> None:
        await serve(settings, stop, model=model, version=version)

    _run("worker", serve_version)


def dashboard() -> None:
    """Show the live page: what the API and the broker say, once a second for all who look."""
    from dashboards.live.main import serve  # noqa: PLC0415 - each process loads only its own service

    _run("dashboard", serve)


def _run(service: str, serve: "Callable[[Settings, asyncio.Event], Awaitable[None]]") -> None:
    settings = load_settings()
    configure_logs(settings, service=service)
    # Short turns for the event loop: with the default 5 ms a thread that infers holds up every waiting client.
    sys.setswitchinterval(0.0005)
    run(lambda stop: serve(settings, stop))

"""`inferlane api`, `router`, `worker`, `webhooks` and `dashboard`: one process each."""

from pathlib import Path
from typing import Annotated

import typer

from control_plane import services
from inferlane.errors import ConfigurationError


def api() -> None:
    """Run the HTTP API: produce requests to Kafka, return results to clients."""
    services.run_api()


def router() -> None:
    """Run the router: forward requests to the topic of a version, aggregate outcomes."""
    services.run_router()


def worker(
    model: Annotated[
        list[str] | None,
        typer.Option(help="The model to serve; with no --version MODEL/VERSION, and again for each further one."),
    ] = None,
    version: Annotated[str | None, typer.Option(help="The version to serve.")] = None,
    roster: Annotated[
        Path | None, typer.Option(help="A file of MODEL/VERSION lines, followed while the process runs.")
    ] = None,
) -> None:
    """Run one worker of the pool of a version, or one process that serves many versions."""
    names = model or []
    if version is None and (names or roster):
        services.run_shared_worker(names=names, roster=roster)
    elif version is not None and len(names) == 1 and roster is None:
        services.run_worker(model=names[0], version=version)
    else:
        raise ConfigurationError(
            "a worker serves one version (--model NAME --version VERSION) or many in one process "
            "(--model NAME/VERSION --model NAME/VERSION …, or --roster FILE)"
        )


def webhooks() -> None:
    """Send the results of requests to the URLs that they named, signed, until each is delivered."""
    services.run_webhooks()


def dashboard() -> None:
    """Serve the live dashboard, updated once per second."""
    services.run_dashboard()

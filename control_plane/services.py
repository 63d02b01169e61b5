"""`inferlane api`, `router`, `worker`, `webhooks` and `dashboard`: a process each, without what a terminal needs."""

import os
import resource
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

# Each process loads only its own service, and the command line none of them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from inferlane.runtime.config import Settings

SETTINGS_FILE = "inferlane.env"
"""Read where an `inferlane` command starts; what the environment says already wins."""
_SHARED_MODULES = (
    "inferlane.runtime.config",
    "inferlane.runtime.logs",
    "inferlane.runtime.service",
    "producer_api.main",
    "router.main",
    "workers.main",
    "webhook_sender.main",
    "dashboards.live.main",
    # The modules that services import only once they run.
    "encodings.idna",
    "encodings.utf_8_sig",
    "faust.app.router",
    "faust.assignor.leader_assignor",
    "faust.fixups.django",
    "faust.tables.manager",
    "faust.tables.objects",
    "faust.tables.sets",
    "faust.topics",
    "faust.transport.utils",
    "faust.windows",
    "faust.worker",
    "numpy.random",
    "uvicorn.lifespan.off",
)
# Enough for `max_connections` and what else a process opens; far fewer than would slow down who goes through them all.
_OPEN_FILES = 65_536
_WORKER_OPTIONS = {"--model", "--version"}
_ROSTER_OPTION = "--roster"


def run_api() -> None:
    """Run the HTTP API until it is told to stop."""
    from producer_api.main import serve

    _run("api", serve)


def run_router() -> None:
    """Run the router until it is told to stop."""
    from router.main import serve

    _run("router", serve)


def run_worker(*, model: str, version: str) -> None:
    """Run one worker of the pool of a version until it is told to stop."""
    from workers.main import serve

    async def serve_version(settings: "Settings", stop: "asyncio.Event") -> None:
        await serve(settings, stop, model=model, version=version)

    _run("worker", serve_version)


def run_shared_worker(*, names: "Sequence[str]", roster: "Path | None" = None) -> None:
    """Run one process for many versions, `MODEL/VERSION` each, and those of a file, until it is told to stop.

    Raises:
        ConfigurationError: a name is no version.
    """
    from workers.main import serve_shared
    from workers.roster import Roster, parse_version_names

    versions = Roster(parse_version_names(names, source="--model"), file=roster)

    async def serve_versions(settings: "Settings", stop: "asyncio.Event") -> None:
        await serve_shared(settings, stop, roster=versions)

    _run("worker", serve_versions)


def run_webhooks() -> None:
    """Send results to callbacks until it is told to stop."""
    from webhook_sender.main import serve

    _run("webhooks", serve)


def run_dashboard() -> None:
    """Serve the live dashboard until it is told to stop."""
    from dashboards.live.main import serve

    _run("dashboard", serve)


def service_of(arguments: "Sequence[str]") -> "Callable[[], None] | None":
    """Return what runs the service that these arguments of `inferlane` name; None if they are for the command line."""
    command, *rest = arguments or ("",)
    if command == "worker":
        if len(rest) == 2 and rest[0] == _ROSTER_OPTION:  # noqa: PLR2004 - the option and its value
            return partial(run_shared_worker, names=(), roster=Path(rest[1]))
        options = dict(zip(rest[::2], rest[1::2], strict=False))
        if len(rest) == 2 * len(_WORKER_OPTIONS) and options.keys() == _WORKER_OPTIONS:
            return partial(run_worker, model=options["--model"], version=options["--version"])
        return None
    services = {"api": run_api, "router": run_router, "webhooks": run_webhooks, "dashboard": run_dashboard}
    return None if rest else services.get(command)


def load_all() -> None:
    """Load the modules of every service, to be shared by processes that are forked from this one."""
    quiet_libraries()
    avoid_threads()
    for name in _SHARED_MODULES:
        import_module(name)
    from inferlane.runtime.kafka.broker_connection import speed_up_connections

    # Each service would compile the codecs for itself once it connects.
    speed_up_connections()


def avoid_threads() -> None:
    """Have OpenBLAS, which numpy loads, start no thread: it would be in the way of a fork, and no service needs it."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def quiet_libraries() -> None:
    """Have onnxruntime send no telemetry, unless the environment says otherwise.

    Its official builds report to Microsoft by default, from a thread that the import starts.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def raise_open_files() -> None:
    """Raise the limit of open files to what this process may have: by default Linux gives 1,024 of half a million.

    It is that low for programs that call `select`, which none of ours does; a connection of a client needs a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # A system may have a limit below that of the process.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_forked(arguments: "Sequence[str]") -> int:
    """Run the service that these arguments of `inferlane` name, in a process forked for it; return the exit code."""
    service = service_of(arguments)
    if service is None:
        sys.stderr.write(f"error: no service has the arguments {list(arguments)}\n")
        return 2
    return run_service(service)


def run_service(service: "Callable[[], None]") -> int:
    """Run a service and return the exit code; an error of ours is one line on standard error."""
    from inferlane.errors import InferlaneError, printable

    try:
        service()
    except InferlaneError as error:
        sys.stderr.write(printable(f"error ({error.code}) {error}") + "\n")
        return 1
    return 0


def _run(service: str, serve: "Callable[[Settings, asyncio.Event], Awaitable[None]]") -> None:
    # structlog loads it for tracebacks on a terminal, if it is there: 5 MB and 25 ms of every process.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # how Python is told that a module is not there

    from inferlane.runtime.config import load_settings
    from inferlane.runtime.logs import configure_logs
    from inferlane.runtime.service import run

    settings = load_settings()
    configure_logs(settings.stack, service=service)
    # Short turns for the event loop: with the default 5 ms a thread that infers holds up every waiting client.
    sys.setswitchinterval(0.0005)
    run(lambda stop: serve(settings, stop))

"""`inferlane up`, `down` and `status`: the whole stack on this machine."""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.cli import models_commands
from control_plane.cli.console import load_settings, out, styled
from inferlane.errors import ConfigurationError

# The stack loads the Kafka, Redis and HTTP clients: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from collections.abc import Sequence

    from control_plane.local.fork_server import ForkServer
    from control_plane.local.probe import Target
    from control_plane.local.profile import Profile, StackOptions
    from inferlane.runtime.runfile import FaultRecord, RunRecord
    from inferlane.runtime.settings import StackSettings

# What a stack may take to stop: API, workers and router drain one after the other, then broker and store.
_DRAINS_IN_A_ROW = 4


def up(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    workers: Annotated[
        int, typer.Option(min=1, envvar="INFERLANE_WORKERS", help="Worker processes for each model version.")
    ] = 1,
    api_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="INFERLANE_API_PORT", help="TCP port of the HTTP API.")
    ] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            envvar="INFERLANE_GRPC_PORT",
            help="TCP port of the API over gRPC; 0 turns it off.",
            show_default="the API's port + 1, if it is free and the extra grpc is installed",
        ),
    ] = None,
    broker_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="INFERLANE_BROKER_PORT", help="TCP port of the embedded broker.")
    ] = 9092,
    store_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="INFERLANE_STORE_PORT", help="TCP port of the embedded store.")
    ] = 6379,
    ops_port: Annotated[
        int,
        typer.Option(
            min=1,
            max=65535,
            envvar="INFERLANE_FIRST_OPS_PORT",
            help="First TCP port for metrics of router and workers.",
        ),
    ] = 8100,
    store_memory: Annotated[
        int, typer.Option(min=16, envvar="INFERLANE_STORE_MEMORY", help="Memory limit of the embedded store, MiB.")
    ] = 512,
    dashboard_port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, envvar="INFERLANE_DASHBOARD_PORT", help="TCP port of the live dashboard; 0 turns it off."
        ),
    ] = 3000,
    autoscale: Annotated[
        bool,
        typer.Option(
            "--autoscale/--fixed",
            envvar="INFERLANE_AUTOSCALE",
            help="Scale each pool by its ScaledObject, to zero too; or keep its size.",
        ),
    ] = False,
    scaled_objects: Annotated[
        Path, typer.Option(envvar="INFERLANE_SCALED_OBJECTS", help="Manifest with the ScaledObjects of the pools.")
    ] = Path("k8s/hpa.yaml"),
    max_workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="INFERLANE_MAX_WORKERS",
            help="Maximum of workers per pool when scaled, whatever its ScaledObject says.",
            show_default="the number of CPUs",
        ),
    ] = None,
    hpa_sync: Annotated[
        float,
        typer.Option(min=0.1, envvar="INFERLANE_HPA_SYNC_S", help="Seconds from one step of the HPA to the next."),
    ] = 15.0,
    share_below: Annotated[
        int,
        typer.Option(
            min=0,
            envvar="INFERLANE_SHARED_WORKER_MAX_MODEL_BYTES",
            help="Versions whose files take at most so many bytes share one process; 0: each has its own.",
        ),
    ] = 0,
    samples: Annotated[
        bool, typer.Option("--samples", help="Build the sample models first, where the store lacks them. Default: off.")
    ] = False,
    fork: Annotated[
        bool,
        typer.Option(
            "--fork/--exec",
            envvar="INFERLANE_FORK",
            help="Fork our processes from one that has loaded their modules (Linux only), or start each anew.",
        ),
    ] = True,
    detach: Annotated[
        bool, typer.Option("--detach/--foreground", help="Return once everything is ready, or stay and log.")
    ] = False,
) -> None:
    """Start broker, store, router, workers, API and dashboard here, and probe each model version through them."""
    from control_plane.services import avoid_threads

    avoid_threads()
    from control_plane.local.profile import AutoscaleOptions, StackOptions, grpc_port_beside, stack_profile

    options = StackOptions(
        workers=workers,
        api_port=api_port,
        grpc_port=grpc_port_beside(api_port, {broker_port, store_port, ops_port, dashboard_port})
        if grpc_port is None
        else grpc_port,
        broker_port=broker_port,
        store_port=store_port,
        first_ops_port=ops_port,
        store_maxmemory_mib=store_memory,
        dashboard_port=dashboard_port,
        autoscale=AutoscaleOptions(
            scaled_objects=scaled_objects, max_workers=max_workers or os.cpu_count() or 1, hpa_sync_s=hpa_sync
        )
        if autoscale
        else None,
        forks=fork,
        shared_worker_max_model_bytes=share_below,
    )
    if samples:
        models_commands.build_samples()
    profile = stack_profile(load_settings(), options)
    if detach:
        _up_detached(profile, options)
    else:
        _up_here(profile, options)


def down() -> None:
    """Stop the stack that `inferlane up` started here; accepted requests are finished first."""
    from control_plane.local.detached_stack import stop_detached
    from inferlane.runtime.runfile import RunFile

    settings = load_settings()
    file = RunFile(settings.state_dir)
    record = file.read()
    if record is None:
        out.print(f"no stack runs here ({file.path})")
        return
    started_s = time.monotonic()
    was_running = record.is_running
    with out.status("stopping: API, workers and router finish accepted requests"):
        orphans = stop_detached(record, wait_s=_stop_within_s(settings))
    try:
        file.remove()
    except OSError as error:
        out.print(f"{file.path} could not be removed ({error.strerror}); it names processes that are gone")
    if orphans:
        said = ("left by a supervisor that was killed, stopped now:", "yellow")
        out.print(styled(said, f" {', '.join(orphans)}"), soft_wrap=True)
    elif was_running:
        out.print(f"stopped {len(record.processes)} processes in {time.monotonic() - started_s:.1f} s")
    else:
        out.print(f"no stack ran here any more; removed {file.path}")


def restart() -> None:
    """Drain and start again each API process, one after the other; with several of them others serve meanwhile."""
    import signal

    from inferlane.runtime.runfile import RunFile, same_process

    file = RunFile(load_settings().state_dir)
    record = file.read()
    supervisor = record and same_process(record.pid, record.create_time_s)
    if not record or not supervisor or record.phase != "ready":
        raise ConfigurationError(f"no stack is ready here ({file.path}); start one with `inferlane up`")
    supervisor.send_signal(signal.SIGUSR2)
    out.print("restarting the API; `inferlane status` shows how far it is", soft_wrap=True)


def status() -> None:
    """Show each process of the stack: pid, state, restarts, uptime, readiness. Exit 1 unless all are well."""
    from control_plane.local.detached_stack import fault_lines, readiness_of
    from control_plane.local.state_directory import folder_fault
    from inferlane.runtime.runfile import RunFile

    file = RunFile(load_settings().state_dir)
    record = file.read()
    if record is None or not record.is_running:
        out.print(f"no stack runs here ({file.path}); start one with `inferlane up`")
        raise typer.Exit(1)
    readiness = asyncio.run(readiness_of(record))
    table = Table("process", "pid", "state", "restarts", "uptime", "port", "readiness", box=None)
    for entry, ready in zip(record.processes, readiness, strict=True):
        uptime = f"{time.time() - entry.create_time_s:.0f} s" if entry.pid else "-"
        name = f"{entry.name} ({len(entry.versions)} versions)" if entry.versions else entry.name
        table.add_row(name, str(entry.pid), entry.state, str(entry.restarts), uptime, str(entry.port), ready)
    out.print(f"stack {record.phase}, supervisor pid {record.pid}, {record.api_url}")
    out.print(table)
    for line in fault_lines(record):
        out.print(line, soft_wrap=True)
    fault = folder_fault(file.path.parent)
    troubles = [*record.troubles, *([f"state directory: {fault}"] if fault else [])]
    for trouble in troubles:
        out.print(styled(("!", "yellow"), f" {trouble}"), soft_wrap=True)
    if record.scaled_pools:
        out.print(_scaled_table(record))
    if record.phase != "ready" or record.faults or any(ready != "ready" for ready in readiness):
        raise typer.Exit(1)


def load_targets(settings: "StackSettings") -> "tuple[Target, ...]":
    """Return every version of the catalog as a target for probes.

    Raises:
        ConfigurationError: there are no models, or a file of the store is malformed.
    """
    from control_plane.local.probe import Target
    from models.store_reader import load_catalog

    catalog = load_catalog(settings.models_dir, default_model=settings.default_model)
    return tuple(Target.of(entry) for entry in catalog.all_versions())


def _served(profile: "Profile") -> "tuple[tuple[Target, ...], tuple[FaultRecord, ...]]":
    """Return what there is to serve, as targets for probes, and what cannot be served.

    A store that lacks models is no fault where the catalogue topic of a broker of yours has them: workers pull them.

    Raises:
        ConfigurationError: neither has a model, or the store cannot be read.
        UnavailableError: the store has no model, and the broker does not answer.
    """
    from control_plane.catalog_changes import read_state
    from control_plane.local.probe import Target
    from inferlane.runtime.runfile import FaultRecord
    from models.store_reader import read_store

    catalog, lack = read_store(profile.settings.models_dir, default_model=profile.settings.default_model)
    if lack and not profile.has_broker:
        catalog = asyncio.run(read_state(profile.settings)).catalog
    if lack and (profile.has_broker or not catalog.models):
        raise ConfigurationError(lack)
    return tuple(Target.of(entry) for entry in catalog.all_versions()), tuple(
        FaultRecord(model=fault.model, version=fault.version, reason=fault.reason) for fault in catalog.faults
    )


def _up_here(profile: "Profile", options: "StackOptions") -> None:
    import structlog

    # First what the supervisor needs too: it is shared with the services.
    import control_plane.local.local_stack  # noqa: F401
    from control_plane.local.fork_server import ForkServer, ForkServerError
    from control_plane.services import load_all, run_forked
    from inferlane.runtime.logs import configure_logs

    forks, why_not = None, ""
    if options.forks:
        try:
            # Before anything here has an event loop or a log.
            forks = ForkServer.start(load_all, run_forked)
        except ForkServerError as error:
            why_not = str(error)
    configure_logs(profile.settings, service="supervisor")
    if why_not:
        structlog.get_logger(__name__).info(
            "services_not_forked", reason=why_not, effect="each loads its own modules: more memory, a slower start"
        )
    try:
        _run_here(profile, options, forks)
    finally:
        if forks is not None:
            forks.close()


def _run_here(profile: "Profile", options: "StackOptions", forks: "ForkServer | None") -> None:
    from control_plane.local.local_stack import LocalStack
    from inferlane.runtime.service import run

    _stop_leftovers(profile.settings)
    stack = LocalStack(profile, options, *_served(profile), forks=forks)
    run(lambda stop: stack.run(stop, when_ready=_announce))


def _up_detached(profile: "Profile", options: "StackOptions") -> None:
    from control_plane.local.detached_stack import progress_of, start_detached
    from control_plane.local.local_stack import LocalStack
    from inferlane.runtime.runfile import RunFile

    file = RunFile(profile.settings.state_dir)
    record = file.read()
    if record and record.is_running and record.phase == "ready":
        out.print(f"a stack is running already and ready (pid {record.pid})")
        _announce(record)
        return
    _stop_leftovers(profile.settings)
    # Only to hear of a taken port or missing models here rather than from the log of the background process.
    LocalStack(profile, options, *_served(profile))
    with out.status("starting") as progress:
        record = start_detached(
            file,
            _arguments(options),
            on_change=lambda seen: progress.update(styled(f"starting: {progress_of(seen)}")),
        )
    _announce(record)


def _stop_leftovers(settings: "StackSettings") -> None:
    """Stop the processes of a killed supervisor, if the system has not done so."""
    from control_plane.local.detached_stack import stop_detached
    from inferlane.runtime.runfile import RunFile

    record = RunFile(settings.state_dir).read()
    if record and not record.is_running:
        stop_detached(record, wait_s=_stop_within_s(settings))


def _arguments(options: "StackOptions") -> "Sequence[str]":
    values: dict[str, object] = {
        "--workers": options.workers,
        "--api-port": options.api_port,
        "--grpc-port": options.grpc_port,
        "--broker-port": options.broker_port,
        "--store-port": options.store_port,
        "--ops-port": options.first_ops_port,
        "--store-memory": options.store_maxmemory_mib,
        "--dashboard-port": options.dashboard_port,
    }
    if options.autoscale:
        values |= {
            "--scaled-objects": options.autoscale.scaled_objects,
            "--max-workers": options.autoscale.max_workers,
            "--hpa-sync": options.autoscale.hpa_sync_s,
        }
    flags = [part for flag, value in values.items() for part in (flag, str(value))]
    return [*flags, "--autoscale" if options.autoscale else "--fixed", "--fork" if options.forks else "--exec"]


def _scaled_table(record: "RunRecord") -> Table:
    table = Table("scaled pool", "workers", "desired", "bounds", "lag", "last change", box=None)
    for pool in record.scaled_pools:
        ready = sum(entry.pool == pool.name and entry.state == "ready" for entry in record.processes)
        lag = "?" if pool.lag_records is None else str(pool.lag_records)
        table.add_row(pool.name, str(ready), str(pool.workers), f"{pool.least}-{pool.most}", lag, pool.reason)
    return table


def _announce(record: "RunRecord") -> None:
    from control_plane.local.detached_stack import ready_lines

    for line in ready_lines(record):
        out.print(line, soft_wrap=True)


def _stop_within_s(settings: "StackSettings") -> float:
    return _DRAINS_IN_A_ROW * (settings.drain_deadline_s + 5.0)

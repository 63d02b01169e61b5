"""`inferlane up`: start the whole stack on this machine, in the foreground or in the background."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli import models_commands
from control_plane.cli.console import err, load_settings, out, run_work, styled
from control_plane.cli.stack_commands import stop_within_s
from inferlane.errors import ConfigurationError

# The stack loads the Kafka, Redis and HTTP clients: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from collections.abc import Sequence

    from control_plane.local.fork_server import ForkServer
    from control_plane.local.probe import Target
    from control_plane.local.profile import Profile, StackOptions
    from inferlane.runtime.runfile import FaultRecord, RunRecord
    from inferlane.runtime.settings import KafkaSettings, StackSettings


def up(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    workers: Annotated[
        int, typer.Option(min=1, max=1024, envvar="INFERLANE_WORKERS", help="Worker processes for each model version.")
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
        int,
        typer.Option(
            min=16, max=2**20, envvar="INFERLANE_STORE_MEMORY", help="Memory limit of the embedded store, MiB."
        ),
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
            max=1024,
            envvar="INFERLANE_MAX_WORKERS",
            help="Maximum of workers per pool when scaled, whatever its ScaledObject says.",
            show_default="the number of CPUs",
        ),
    ] = None,
    hpa_sync: Annotated[
        float,
        typer.Option(
            min=0.1, max=3_600, envvar="INFERLANE_HPA_SYNC_S", help="Seconds from one step of the HPA to the next."
        ),
    ] = 15.0,
    share_below: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**40,
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


def load_targets(stack: "StackSettings") -> "tuple[Target, ...]":
    """Return every version of the catalog as a target for probes.

    Raises:
        ConfigurationError: there are no models, or a file of the store is malformed.
    """
    from control_plane.local.probe import Target
    from models.store_reader import load_catalog

    catalog = load_catalog(stack.models_dir, default_model=stack.default_model)
    return tuple(Target.of(entry) for entry in catalog.all_versions())


def _served(profile: "Profile") -> "tuple[tuple[Target, ...], tuple[FaultRecord, ...]]":
    """Return the versions to serve, as targets for probes, and those that cannot be served.

    A store without models is no error if the catalogue topic of an external broker has them: workers pull them.

    Raises:
        ConfigurationError: neither has a model, or the store cannot be read.
        UnavailableError: the store has no model, and the broker does not answer.
    """
    from control_plane.catalog_changes import read_state
    from control_plane.local.probe import Target
    from inferlane.runtime.runfile import FaultRecord
    from models.store_reader import read_store

    catalog, lack = read_store(profile.settings.stack.models_dir, default_model=profile.settings.stack.default_model)
    if lack and not profile.has_broker:
        catalog = run_work(read_state(profile.settings.kafka, profile.settings.stack)).catalog
    if lack and (profile.has_broker or not catalog.models):
        raise ConfigurationError(lack)
    return tuple(Target.of(entry) for entry in catalog.all_versions()), tuple(
        FaultRecord(model=fault.model, version=fault.version, reason=fault.reason) for fault in catalog.faults
    )


def _up_here(profile: "Profile", options: "StackOptions") -> None:
    import structlog

    # Import first what the supervisor needs: pages written after the fork are not shared.
    import control_plane.local.local_stack  # noqa: F401
    from control_plane.local.fork_server import ForkServer, ForkServerError
    from control_plane.services import load_all, run_forked
    from inferlane.runtime.logs import configure_logs

    forks, why_not = None, ""
    if options.forks:
        try:
            # Before this process has an event loop or a log.
            forks = ForkServer.start(load_all, run_forked)
        except ForkServerError as error:
            why_not = str(error)
    configure_logs(profile.settings.stack, service="supervisor")
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

    _stop_leftovers(profile.settings.kafka, profile.settings.stack)
    stack = LocalStack(profile, options, *_served(profile), forks=forks)
    run(lambda stop: stack.run(stop, when_ready=_announce))


def _up_detached(profile: "Profile", options: "StackOptions") -> None:
    from control_plane.local.detached_stack import progress_of, start_detached, unapplied
    from control_plane.local.local_stack import LocalStack
    from inferlane.runtime.runfile import RunFile

    file = RunFile(profile.settings.stack.state_dir)
    record = file.read()
    if record and record.is_running and record.phase == "ready":
        out.print(f"a stack is running already and ready (pid {record.pid})")
        if others := unapplied(profile.environment, record):
            err.print(
                f"it was started with other values of {', '.join(others)}, and goes on with those; to start it with "
                "yours, run `inferlane down` first",
                soft_wrap=True,
            )
        _announce(record)
        return
    _stop_leftovers(profile.settings.kafka, profile.settings.stack)
    # Reports a taken port or missing models here, and not in the log of the background process.
    stack = LocalStack(profile, options, *_served(profile))
    with out.status("starting") as progress:
        record = start_detached(
            file,
            _arguments(options),
            first=stack.record,
            on_change=lambda seen: progress.update(styled(f"starting: {progress_of(seen)}")),
        )
    _announce(record)


def _stop_leftovers(kafka: "KafkaSettings", stack: "StackSettings") -> None:
    """Stop the processes of a killed supervisor, if the system has not done so."""
    from control_plane.local.detached_stack import stop_detached
    from inferlane.runtime.runfile import RunFile

    record = RunFile(stack.state_dir).read()
    if record and not record.is_running:
        stop_detached(record, wait_s=stop_within_s(kafka))


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
        "--share-below": options.shared_worker_max_model_bytes,
    }
    if options.autoscale:
        values |= {
            "--scaled-objects": options.autoscale.scaled_objects,
            "--max-workers": options.autoscale.max_workers,
            "--hpa-sync": options.autoscale.hpa_sync_s,
        }
    flags = [part for flag, value in values.items() for part in (flag, str(value))]
    return [*flags, "--autoscale" if options.autoscale else "--fixed", "--fork" if options.forks else "--exec"]


def _announce(record: "RunRecord") -> None:
    from control_plane.local.detached_stack import ready_lines

    for line in ready_lines(record):
        out.print(line, soft_wrap=True)

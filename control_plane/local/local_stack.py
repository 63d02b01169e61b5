"""Run the local stack in this process: supervise, report in the run file, probe, stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import structlog

from control_plane.local.catalog_pools import CatalogPools
from control_plane.local.embedded_parts import store_answers
from control_plane.local.pool_autoscaler import Autoscaler
from control_plane.local.pools import StackPools
from control_plane.local.probe import Target
from control_plane.local.profile import Profile, StackOptions
from control_plane.local.scaled_pools import read_scaled_pools
from control_plane.local.side_work import keep_working
from control_plane.local.state_directory import (
    StateFiles,
    TargetFile,
    TargetGroup,
    keep_small,
    target_group,
    target_groups,
)
from control_plane.local.supervisor import Supervisor
from control_plane.local.trial_pools import TrialPools
from control_plane.local.version_pools import VersionPools
from inferlane import __version__
from inferlane.errors import ConfigurationError, InferlaneError, clipped
from inferlane.runtime.kafka.arrival_signals import remove_dead_listeners
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.runfile import FaultRecord, PoolRecord, ProcessRecord, RunFile, RunRecord, base_url

if TYPE_CHECKING:
    from control_plane.local.fork_server import ForkServer
    from control_plane.local.managed_process import ManagedProcess
    from control_plane.local.pool_autoscaler import ScaledState

log = structlog.get_logger(__name__)


class LocalStack:
    """One stack from start to stop; `run` is its whole life, on the main thread's event loop.

    Raises:
        ConfigurationError: a stack runs here already, a port is taken, or there are no ScaledObjects to scale by.
    """

    def __init__(
        self,
        profile: Profile,
        options: StackOptions,
        targets: Sequence[Target],
        faults: Sequence[FaultRecord] = (),
        *,
        forks: "ForkServer | None" = None,
    ) -> None:
        """`faults` are the versions that the catalogue left out, to be shown with the rest; `forks` starts services."""
        self._profile = profile
        settings = profile.settings
        self._file = RunFile(settings.stack.state_dir)
        refuse_second(self._file)
        self._state = StateFiles(self._file, TargetFile(settings.stack.state_dir), write_again=self._write)
        self._pools = StackPools(profile, options, targets, forks=forks)
        self._supervisor = Supervisor(self._pools.all(), on_change=self._write)
        self._versions = VersionPools(
            settings,
            pools=self._pools,
            supervisor=self._supervisor,
            unusable=faults,
            workers=options.workers,
            on_change=self._write,
        )
        self._workers = options.workers
        self._autoscaler = self._make_autoscaler(options)
        if self._autoscaler:
            self._versions.scaled_by(self._autoscaler)
        # What begins once the stack is ready: scaling, and following the catalogue.
        self._tasks: list[asyncio.Task[None]] = []
        self._troubles: dict[str, str] = {}
        # What this process itself serves.
        self._own_targets: list[TargetGroup] = []
        self._record = RunRecord(
            pid=os.getpid(),
            create_time_s=psutil.Process().create_time(),
            phase="starting",
            release=__version__,
            api_url=base_url(settings.api.host, settings.api.port, tls=settings.api.ssl_certfile is not None),
            environment=profile.environment,
        )

    @property
    def record(self) -> RunRecord:
        """What the run file says of the stack."""
        return self._record

    async def run(self, stop: asyncio.Event, *, when_ready: Callable[[RunRecord], None]) -> None:
        """Run until `stop` is set; the second SIGTERM or SIGINT kills what has not drained.

        SIGUSR2 drains and starts again each API process, one after the other.

        Raises:
            StartError: a process did not get ready; everything else was stopped.
            UnavailableError: no version answers the probe; everything was stopped.
        """
        _on_signals(stop, self._supervisor.kill, self._restart_api)

        async def get_ready() -> None:
            await self._versions.probe_all()
            self._enter("ready")
            if self._autoscaler:
                self._keep("autoscaler", partial(self._autoscale, self._autoscaler), effect="pools keep their size")
            settings = self._profile.settings
            catalog, trials = CatalogPools(self._versions), TrialPools(self._versions.isolate)
            self._keep(
                "catalogue", partial(catalog.run, settings.kafka, settings.stack), effect="versions neither come nor go"
            )
            self._keep("probes", self._versions.probe_again, effect="versions that answer late stay marked")
            if self._pools.shared.is_used:
                self._keep("shared process", self._versions.watch_shared, effect="its versions' states are old")
                self._keep(
                    "trials",
                    partial(trials.run, settings.kafka, settings.stack.names),
                    effect="versions in rollouts share a process",
                )
            # Said to whoever started us, who may be gone, or to a log that cannot be written.
            with suppress(OSError):
                when_ready(self._record)

        self._state.write_first(self._record)
        if (arrivals := self._profile.settings.kafka.arrivals_dir) is not None:
            remove_dead_listeners(arrivals)
        stopping = asyncio.create_task(self._note_stop(stop))
        rotating = asyncio.create_task(keep_small(self._logs), name="stack:logs")
        try:
            if not self._profile.has_broker:
                await self._pools.create_topics()
            if not self._profile.has_store:
                # Services would wait for it; the person who starts a stack wants to know at once.
                await store_answers(self._profile.settings.store.redis_url)
            await self._supervisor.run(stop, when_ready=get_ready)
        except InferlaneError as error:
            self._enter("failed", failure=str(error))
            raise
        else:
            self._state.remove()
        finally:
            stopping.cancel()
            rotating.cancel()
            self._cancel_tasks()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, part: str, work: Callable[[], Coroutine[Any, Any, None]], *, effect: str) -> None:
        keeping = keep_working(part, work, effect=effect, note=self._note_trouble)
        self._tasks.append(asyncio.create_task(keeping, name=f"stack:{part}"))

    def _restart_api(self) -> None:
        log.info("api_restarting")
        restart = asyncio.create_task(self._supervisor.restart("api"), name="stack:restart")
        self._tasks.append(restart)
        restart.add_done_callback(self._tasks.remove)

    def _make_autoscaler(self, options: StackOptions) -> Autoscaler | None:
        if options.autoscale is None:
            return None
        chosen = options.autoscale
        return Autoscaler(
            read_scaled_pools(
                chosen.scaled_objects,
                self._pools.targets,
                max_workers=chosen.max_workers,
                names=self._profile.settings.stack.names,
            ),
            reader=BacklogReader(self._profile.settings.kafka),
            scale=self._versions.scale,
            hpa_sync_s=chosen.hpa_sync_s,
            on_look=self._write,
        )

    async def _autoscale(self, autoscaler: Autoscaler) -> None:
        """Scale, and serve the autoscaler's metrics, until cancelled."""
        settings = self._profile.settings
        host, port = settings.ports.ops_host, self._pools.ops_port("autoscaler")
        ops, max_body_bytes = OpsApp(live=dict, ready=dict), settings.kafka.max_body_bytes
        async with serve_ops(ops, settings.ports, max_body_bytes=max_body_bytes, port=port):
            url = base_url(host, port)
            log.info("autoscaler_metrics", url=f"{url}/metrics")
            self._own_targets = [target_group(url, component="autoscaler", pool="autoscaler", name="autoscaler")]
            self._write()
            await autoscaler.run(workers=self._workers)

    async def _note_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._cancel_tasks()
        self._enter("stopping")

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _note_trouble(self, part: str, trouble: str) -> None:
        """Report a problem outside the data path; an empty text clears it."""
        self._troubles[part] = trouble
        self._write()

    def _logs(self) -> list[Path]:
        folder = self._profile.settings.stack.state_dir / "logs"
        return [folder / "supervisor.log", *(process.spec.log_path for _, process in self._supervisor.processes())]

    def _enter(self, phase: str, *, failure: str | None = None) -> None:
        self._record = msgspec.structs.replace(self._record, phase=phase, failure=failure)
        self._write()

    def _write(self) -> None:
        processes = tuple(
            _process_record(pool, process, versions=self._versions.sharing(pool))
            for pool, process in self._supervisor.processes()
        )
        pools = tuple(_pool_record(state) for state in self._autoscaler.states) if self._autoscaler else ()
        faults = self._versions.faults()
        bad = {(fault.model, fault.version) for fault in faults}
        served = sum((target.model, target.version) not in bad for target in self._pools.targets)
        troubles = tuple(f"{part}: {clipped(trouble)}" for part, trouble in self._troubles.items() if trouble)
        self._record = msgspec.structs.replace(
            self._record, processes=processes, scaled_pools=pools, faults=faults, served=served, troubles=troubles
        )
        self._state.write(self._record, [*target_groups(processes), *self._own_targets])


def refuse_second(file: RunFile) -> None:
    """Return if no other stack runs with this run file.

    Raises:
        ConfigurationError: one does.
    """
    record = file.read()
    if record and record.is_running and record.pid != os.getpid():
        raise ConfigurationError(
            f"a stack runs here already: pid {record.pid}, {record.phase}, {record.api_url} ({file.path}). "
            "Use it, stop it with `inferlane down`, or set INFERLANE_STATE_DIR to run a second one."
        )


def _process_record(pool: str, process: "ManagedProcess", *, versions: tuple[str, ...]) -> ProcessRecord:
    return ProcessRecord(
        name=process.spec.name,
        pool=pool,
        pid=process.child.pid if process.child else 0,
        create_time_s=process.child.create_time_s if process.child else 0.0,
        state=process.state,
        restarts=process.restarts,
        port=process.spec.port,
        ops_url=process.spec.ops_url,
        log=str(process.spec.log_path),
        fault=process.fault,
        versions=versions,
    )


def _pool_record(state: "ScaledState") -> PoolRecord:
    scaled_object = state.scaler.scaled_object
    return PoolRecord(
        name=state.pool.name,
        workers=state.scaler.replicas,
        least=scaled_object.min_replicas,
        most=scaled_object.max_replicas,
        reason=state.reason,
        lag_records=state.lag_records,
    )


def _on_signals(stop: asyncio.Event, kill: Callable[[], None], restart: Callable[[], None]) -> None:
    """Stop in order on the first signal and kill on the second; a supervisor that just exited would leave orphans.

    `restart` is called for each SIGUSR2.
    """

    def on_signal() -> None:
        if stop.is_set():
            kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    loop.add_signal_handler(signal.SIGUSR2, restart)

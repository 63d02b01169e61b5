"""The life of the local stack in this process: supervise, report in the run file, probe, stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import psutil

from inferlane.errors import ConfigurationError, InferlaneError
from inferlane.stack.pools import StackPools, base_url
from inferlane.stack.probe import Target, predict
from inferlane.stack.profile import Profile, StackOptions
from inferlane.stack.runfile import ProcessRecord, RunFile, RunRecord
from inferlane.stack.scraping import TargetFile
from inferlane.stack.supervisor import Supervisor

if TYPE_CHECKING:
    from inferlane.stack.keeper import Keeper

_PROBE_WAIT_S = 30.0


class RunningStack:
    """One stack from start to stop; `run` is its whole life, on the main thread's event loop.

    Raises:
        ConfigurationError: a stack runs here already, or a port is taken.
    """

    def __init__(self, profile: Profile, options: StackOptions, targets: Sequence[Target]) -> None:
        self._profile = profile
        self._targets = targets
        settings = profile.settings
        self._file = RunFile(settings.state_dir)
        refuse_second(self._file)
        self._scraped = TargetFile(settings.state_dir)
        self._pools = StackPools(profile, options, targets)
        self._supervisor = Supervisor(self._pools.all(), on_change=self._write)
        self._record = RunRecord(
            pid=os.getpid(),
            create_time_s=psutil.Process().create_time(),
            phase="starting",
            api_url=base_url(settings.api_host, settings.api_port),
            environment=profile.environment,
        )

    async def run(self, stop: asyncio.Event, *, when_ready: Callable[[RunRecord], None]) -> None:
        """Run until `stop` is set; the second SIGTERM or SIGINT kills what has not drained.

        Raises:
            StartError: a process did not get ready; everything else was stopped.
            UnavailableError: a version does not answer the probe; everything was stopped.
        """
        _on_signals(stop, self._supervisor.kill)

        async def get_ready() -> None:
            await asyncio.gather(
                *(
                    predict(self._record.api_url, target, wait_s=_PROBE_WAIT_S, api_key=self._profile.settings.api_key)
                    for target in self._targets
                )
            )
            self._enter("ready")
            when_ready(self._record)

        self._write()
        stopping = asyncio.create_task(self._note_stop(stop))
        try:
            if not self._profile.has_broker:
                await self._pools.create_topics()
            await self._supervisor.run(stop, when_ready=get_ready)
        except InferlaneError as error:
            self._enter("failed", failure=str(error))
            raise
        else:
            self._file.remove()
            self._scraped.remove()
        finally:
            stopping.cancel()

    async def _note_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._enter("stopping")

    def _enter(self, phase: str, *, failure: str | None = None) -> None:
        self._record = msgspec.structs.replace(self._record, phase=phase, failure=failure)
        self._write()

    def _write(self) -> None:
        processes = tuple(_process_record(pool, keeper) for pool, keeper in self._supervisor.keepers())
        self._record = msgspec.structs.replace(self._record, processes=processes)
        self._file.write(self._record)
        self._scraped.write(processes)


def refuse_second(file: RunFile) -> None:
    """Return if no stack runs by this file.

    Raises:
        ConfigurationError: one does.
    """
    record = file.read()
    if record and record.is_running and record.pid != os.getpid():
        raise ConfigurationError(
            f"a stack runs here already: pid {record.pid}, {record.phase}, {record.api_url} ({file.path}). "
            "Use it, stop it with `inferlane down`, or set INFERLANE_STATE_DIR to run a second one."
        )


def _process_record(pool: str, keeper: "Keeper") -> ProcessRecord:
    return ProcessRecord(
        name=keeper.spec.name,
        pool=pool,
        pid=keeper.child.pid if keeper.child else 0,
        create_time_s=keeper.child.create_time_s if keeper.child else 0.0,
        state=keeper.state,
        restarts=keeper.restarts,
        port=keeper.spec.port,
        ops_url=keeper.spec.ops_url,
        log=str(keeper.spec.log_path),
    )


def _on_signals(stop: asyncio.Event, kill: Callable[[], None]) -> None:
    """Let the first signal stop in order and the second kill; a supervisor that just left would orphan all."""

    def on_signal() -> None:
        if stop.is_set():
            kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)

"""Start the pools in order, keep their processes running, stop them in reverse order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby, islice

import structlog

from control_plane.local.child_process import ProcessSpec
from control_plane.local.managed_process import Backoff, ManagedProcess
from inferlane.errors import ConfigurationError, InferlaneError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A group of equal processes. Pools stop by their `rank`, the highest first.

    They start by `wave`, which is the rank where it is not given: those of one wave together, once all pools of lower
    waves are ready. The other pools do not depend on a pool with `tries` and do not wait for it.
    """

    name: str
    rank: int
    wave: int | None = None
    size: int = 1
    # How often a process is tried at the start of the stack before the others go on without it; None: the stack ends.
    tries: int | None = None
    # The spec of the process number n, counted from 1.
    make: Callable[[int], ProcessSpec]


@dataclass(slots=True, eq=False)
class _ProcessGroup:
    """The processes of a pool by their number; the lock lets one change of size finish before the next."""

    pool: Pool
    processes: dict[int, ManagedProcess] = field(default_factory=dict)
    resizing: asyncio.Lock = field(default_factory=asyncio.Lock)


def _wave(group: _ProcessGroup) -> int:
    return group.pool.rank if group.pool.wave is None else group.pool.wave


class Supervisor:
    """Run all pools from start to stop. Used from one event loop."""

    def __init__(
        self, pools: Sequence[Pool], *, backoff: Backoff | None = None, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._groups = {pool.name: _ProcessGroup(pool) for pool in sorted(pools, key=lambda pool: pool.rank)}
        self._backoff = backoff or Backoff()
        self._on_change = on_change
        self._tasks = asyncio.TaskGroup()
        self._stopping = False

    def processes(self) -> Iterator[tuple[str, ManagedProcess]]:
        """Yield each managed process with the name of its pool, in the order of start."""
        for name, group in self._groups.items():
            for process in group.processes.values():
                yield name, process

    async def run(self, stop: asyncio.Event, *, when_ready: Callable[[], Awaitable[None]]) -> None:
        """Start everything, call `when_ready` once all are ready or failed, and stop everything once `stop` is set.

        Raises:
            StartError: a process failed before it was ready. All others were stopped.
            InferlaneError: what `when_ready` raised; everything was stopped.
        """
        failure: InferlaneError | None = None
        async with self._tasks:
            self._tasks.create_task(self._stop_once(stop), name="stack:stop")
            try:
                await self._start_all(stop)
                if not stop.is_set():
                    await when_ready()
            except InferlaneError as error:
                # Raised below, outside of the group, which would wrap it.
                failure = error
                stop.set()
        if failure:
            raise failure

    async def scale(self, pool: str, size: int) -> None:
        """Scale the pool to `size`; returns once new processes are ready and surplus ones have drained.

        Raises:
            ConfigurationError: no such pool, or a negative size.
            StartError: a new process did not get ready; the pool stays at the size it had reached.
        """
        if pool not in self._groups:
            raise ConfigurationError(f"no pool {pool!r}; there are: {', '.join(self._groups)}")
        if size < 0:
            raise ConfigurationError(f"pool {pool!r} cannot have {size} processes; ask for 0 or more")
        await self._resize(self._groups[pool], size)
        log.info("pool_scaled", pool=pool, size=size)

    async def restart(self, pool: str) -> None:
        """Drain and start again each process of the pool, one after the other, so that the others serve meanwhile.

        Waits at one that does not get ready again: what is wrong with it would be wrong with the next one too.

        Raises:
            ConfigurationError: no such pool.
        """
        if pool not in self._groups:
            raise ConfigurationError(f"no pool {pool!r}; there are: {', '.join(self._groups)}")
        group = self._groups[pool]
        async with group.resizing:
            for process in list(group.processes.values()):
                if self._stopping:
                    return
                await process.restart()
                log.info("process_renewed", pool=pool, name=process.spec.name)

    async def add(self, pool: Pool) -> None:
        """Start a pool while the others run; returns once its processes are ready or were given up.

        Raises:
            ConfigurationError: there is a pool of that name.
            StartError: a process of a pool without `tries` did not get ready.
        """
        if pool.name in self._groups:
            raise ConfigurationError(f"there is a pool {pool.name!r} already")
        if self._stopping:
            return
        # Another dictionary: somebody may be going through this one.
        groups = [*self._groups.values(), _ProcessGroup(pool)]
        self._groups = {group.pool.name: group for group in sorted(groups, key=lambda group: group.pool.rank)}
        await self._resize(self._groups[pool.name], pool.size, tries=pool.tries)
        log.info("pool_added", pool=pool.name)

    async def remove(self, pool: str) -> None:
        """Stop a pool while the others run; returns once its processes have drained and ended."""
        group = self._groups.get(pool)
        if group is None:
            return
        await self._resize(group, 0)
        self._groups = {name: kept for name, kept in self._groups.items() if kept is not group}
        self._on_change()
        log.info("pool_removed", pool=pool)

    def kill(self) -> None:
        """Kill every process now (SIGKILL); `run` returns once they have ended."""
        self._stopping = True
        for _, process in self.processes():
            process.kill()

    async def _start_all(self, stop: asyncio.Event) -> None:
        """Start the pools wave by wave; all of them are settled when it returns."""
        optional: list[asyncio.Task[None]] = []
        try:
            for _, together in groupby(sorted(self._groups.values(), key=_wave), key=_wave):
                if stop.is_set():
                    break
                groups = list(together)
                # A pool that loads for minutes, or never gets ready, does not delay the others.
                optional.append(
                    asyncio.create_task(self._start([group for group in groups if group.pool.tries is not None]))
                )
                await self._start([group for group in groups if group.pool.tries is None])
            await asyncio.gather(*optional)
        finally:
            # Those that still start when a pool that the stack needs has failed: they are stopped with all others.
            for task in optional:
                task.cancel()
            await asyncio.gather(*optional, return_exceptions=True)

    async def _start(self, groups: Iterable[_ProcessGroup]) -> None:
        """Start these pools together; all of them are settled when it returns or raises."""
        outcomes = await asyncio.gather(
            *(self._resize(group, group.pool.size, tries=group.pool.tries) for group in groups), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _resize(self, group: _ProcessGroup, size: int, *, tries: int | None = None) -> None:
        async with group.resizing:
            if self._stopping:
                return
            unused = (number for number in count(1) if number not in group.processes)
            missing = islice(unused, max(0, size - len(group.processes)))
            fresh = {number: self._keep(group.pool.make(number), tries) for number in missing}
            spare = dict(sorted(group.processes.items())[size:])
            group.processes.update(fresh)
            await asyncio.gather(*(process.settled.wait() for process in fresh.values()))
            await asyncio.gather(*(process.stop() for process in spare.values()))
            failed = {number: process for number, process in fresh.items() if process.failure}
            for number in spare | failed:
                del group.processes[number]
            self._on_change()
        for process in failed.values():
            if process.failure:
                raise process.failure

    def _keep(self, spec: ProcessSpec, tries: int | None) -> ManagedProcess:
        process = ManagedProcess(spec, backoff=self._backoff, on_change=self._on_change, tries=tries)
        self._tasks.create_task(process.run(), name=f"keep:{spec.name}")
        return process

    async def _stop_once(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        log.info("stack_stopping")
        ranks = groupby(reversed(self._groups.values()), key=lambda group: group.pool.rank)
        for _, groups in ranks:
            await asyncio.gather(*(process.stop() for group in groups for process in group.processes.values()))

"""Keep one process running, with restarts and back-off, until it is stopped."""

import asyncio
import re
import subprocess
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog

from control_plane.local.child_process import Ask, Child, ProcessSpec, start_child
from inferlane.errors import InferlaneError, clipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with a ceiling, reset after a stable run. Pure.

    `first_s` too small spins on a process that dies at once, too large keeps a pool down after one crash.
    `stable_after_s` must exceed the time to get ready, or a process that dies just after never slows down.
    """

    first_s: float = 0.25
    ceiling_s: float = 30.0
    stable_after_s: float = 30.0

    def deaths_in_a_row(self, before: int, *, ran_s: float) -> int:
        """Count this exit: 1 if the run was stable, else one more than before."""
        return 1 if ran_s >= self.stable_after_s else before + 1

    def delay_s(self, deaths_in_a_row: int) -> float:
        """Seconds to wait after that many deaths in a row (>= 1): doubled each time up to the ceiling."""
        # A power that large overflows a float before the ceiling could cut it.
        doublings = min(deaths_in_a_row - 1, 64)
        return min(self.first_s * 2.0**doublings, self.ceiling_s)


log = structlog.get_logger(__name__)

# How often a process that starts is asked: too seldom delays the next one, too often takes its CPU.
_READY_POLL_S = 0.05
_READY_ANSWER_S = 6.0
# A busy machine lets an answer or two be late; a process that hangs gives none.
_NOT_LIVE_IN_A_ROW = 3
_LOG_TAIL_LINES = 20
_LOG_TAIL_BYTES = 16 * 1024
_REASON_CHARS = 1_000
# How `inferlane` begins the line that it ends with.
_ERROR = re.compile(r"^error \(\w+\) ")


class StartError(InferlaneError):
    """A process of the stack did not get ready. Remedy: its log, whose end is in the message."""

    code = "start_failed"


class State(StrEnum):
    """A managed process: `STARTING` → `READY` → (exit) `WAITING` → `STARTING`, and `STOPPED` or `FAILED` at the end."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class ManagedProcess:
    """Run a spec, and restart it when it exits after it was ready once.

    A process that fails before it was ever ready is not restarted: its settings are wrong, and whoever started the
    stack must hear so. With `tries` it is tried that often, with back-off, and then left `FAILED`, and whatever else
    there is goes on. `run` is one task; everything else is called from the same event loop.
    """

    def __init__(
        self, spec: ProcessSpec, *, backoff: Backoff, on_change: Callable[[], None], tries: int | None = None
    ) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.restarts = 0
        self.child: Child | None = None
        self.failure: StartError | None = None
        # Why the last start failed; empty once one went well.
        self.fault = ""
        self._tries = tries
        self._was_ready = False
        # Set once it is known whether the first start went well, or does not matter any more.
        self.settled = asyncio.Event()
        self._backoff = backoff
        self._on_change = on_change
        self._grace_s = spec.stop_within_s
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        # Whether the process is to end and be started again, because somebody asked for it.
        self._renew = asyncio.Event()
        self._renewed = asyncio.Event()

    async def run(self) -> None:
        """Start, watch and restart until `stop`; no process is left when it returns or is cancelled."""
        deaths = 0
        try:
            while not self._stop.is_set():
                self._enter(State.STARTING)
                began_s = time.monotonic()
                try:
                    code = await self._run_once()
                except Exception:  # nothing that is wrong with one process may end the others
                    log.exception("keeping_failed", name=self.spec.name)
                    code = None
                if self._stop.is_set() or self.failure:
                    break
                if self._renew.is_set():
                    # It ended because it was told to: no death, and nothing to wait for.
                    self._renew.clear()
                    continue
                ran_s = time.monotonic() - began_s
                deaths = self._backoff.deaths_in_a_row(deaths, ran_s=ran_s)
                if self._gives_up(deaths):
                    log.error("process_given_up", name=self.spec.name, starts=deaths, reason=self.fault)
                    break
                self.restarts += 1
                delay_s = self._backoff.delay_s(deaths)
                log.error(
                    "process_died", name=self.spec.name, exit_code=code, ran_s=round(ran_s, 3), restart_in_s=delay_s
                )
                self._enter(State.WAITING)
                await _either(self._stop.wait(), asyncio.sleep(delay_s))
        finally:
            if self.child is not None:
                self.child.kill()
                await self.child.wait()
            self._enter(State.FAILED if self.fault and not self._stop.is_set() else State.STOPPED)
            self._ended.set()
            self.settled.set()

    async def stop(self) -> None:
        """Drain the process (SIGTERM, then SIGKILL after its grace period) and return when it has ended."""
        self._stop.set()
        if not self._ended.is_set():
            self._enter(State.STOPPING)
            await self._ended.wait()

    async def restart(self) -> None:
        """Drain the process, start it again, and return once it is ready, or has ended because of `stop`.

        One that is not ready now is left to itself: it is being started already.
        """
        if self.state is not State.READY or self._stop.is_set():
            return
        self._enter(State.WAITING)
        self._renewed.clear()
        self._renew.set()
        await _either(self._renewed.wait(), self._ended.wait())

    def kill(self) -> None:
        """Kill the process now (SIGKILL), even if it is draining, and do not restart it."""
        self._grace_s = 0.0
        self._stop.set()
        if self.child is not None:
            self.child.kill()

    async def _run_once(self) -> int | None:
        """Start the process and watch it until it has ended; None if the system did not start it."""
        try:
            self.child = child = await start_child(self.spec)
        except (OSError, subprocess.SubprocessError) as error:
            # No file descriptor, process or memory is left just now, or the program is gone: as a death, it may pass.
            log.error("process_not_started", name=self.spec.name, reason=str(error))  # noqa: TRY400 - the reason says all
            self.fault = clipped(f"the system did not start it: {error}", limit_chars=_REASON_CHARS)
            if self._tries is not None:
                self.settled.set()
            elif not self.settled.is_set():
                self.failure = StartError(f"{self.spec.name} could not be started: {error}")
            return None
        self._on_change()
        return await self._watch(child)

    async def _watch(self, child: Child) -> int:
        """Return the exit code of a process that exited, was given up or was stopped."""
        if await self._gets_ready(child):
            self._was_ready, self.fault = True, ""
            self._enter(State.READY)
            self.settled.set()
            self._renewed.set()
            log.info("process_ready", name=self.spec.name, pid=child.pid, restarts=self.restarts)
            await _either(self._stop.wait(), self._renew.wait(), child.wait(), self._hangs())
            if child.is_running and not self._stop.is_set() and not self._renew.is_set():
                log.error("process_stuck", name=self.spec.name, pid=child.pid, remedy="killed, to be started again")
                child.kill()
                return await child.wait()
        elif not self._stop.is_set():
            fault = f"was not ready within {self.spec.ready_within_s:g} s" if child.is_running else "ended"
            child.kill()
            code = await child.wait()
            self.fault = self._reason(f"{fault} (exit code {code})")
            if self._tries is not None:
                self.settled.set()
            elif not self.settled.is_set():
                self.failure = self._start_error(f"{fault} (exit code {code})")
        return await self._drain(child)

    def _gives_up(self, starts: int) -> bool:
        """Whether to stop trying. A process that was ready before may fail because of an outage, which passes."""
        return self._tries is not None and not self._was_ready and starts >= self._tries

    async def _drain(self, child: Child) -> int:
        if not child.is_running:
            return await child.wait()
        started_s = time.monotonic()
        code = await child.stop(self._grace_s)
        took_s = round(time.monotonic() - started_s, 3)
        log.info("process_stopped", name=self.spec.name, exit_code=code, took_s=took_s)
        return code

    async def _gets_ready(self, child: Child) -> bool:
        deadline_s = child.started_s + self.spec.ready_within_s
        # One that served before may wait for a part that is away; a new process would do the same.
        while not self._stop.is_set() and (time.monotonic() < deadline_s or await self._waits_well()):
            if await self._is_ready():
                return True
            if await child.ends_within(_READY_POLL_S):
                return False
        return False

    async def _waits_well(self) -> bool:
        return self._was_ready and self.spec.is_live is not None and await self._answers_yes(self.spec.is_live)

    async def _is_ready(self) -> bool:
        if not await self._answers_yes(self.spec.is_ready):
            return False
        try:
            await self.spec.prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready
            log.debug("not_ready_yet", name=self.spec.name, reason=repr(error))
            return False
        return True

    async def _hangs(self) -> None:
        """Return once the liveness check has failed several times in a row."""
        if self.spec.is_live is None:
            await self._stop.wait()
            return
        failures = 0
        while failures < _NOT_LIVE_IN_A_ROW:
            await asyncio.sleep(self.spec.live_poll_s)
            failures = 0 if await self._answers_yes(self.spec.is_live) else failures + 1

    async def _answers_yes(self, ask: Ask) -> bool:
        try:
            async with asyncio.timeout(_READY_ANSWER_S):
                return await ask()
        except Exception as error:  # noqa: BLE001 - an answer that cannot be read is none, and ends nobody
            log.debug("no_answer", name=self.spec.name, reason=repr(error))
            return False

    def _enter(self, state: State) -> None:
        # A process that got ready while it was told to stop is still one that stops.
        if not self._stop.is_set() or state in {State.STOPPING, State.STOPPED, State.FAILED}:
            self.state = state
        self._on_change()

    def _start_error(self, fault: str) -> StartError:
        return StartError(f"{self.spec.name} {fault} before it was ready. End of {self.spec.log_path}:\n{self._tail()}")

    def _reason(self, fault: str) -> str:
        """Return the last line of the log, which for our services is the error."""
        last = _ERROR.sub("", self._tail().splitlines()[-1].strip())
        return clipped(f"{last} ({fault})", limit_chars=_REASON_CHARS)

    def _tail(self) -> str:
        try:
            with self.spec.log_path.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - _LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"({error.strerror})"
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(empty)"


async def _either(*ways: Coroutine[Any, Any, object]) -> None:
    """Return when one of them is done; the others are cancelled."""
    tasks = {asyncio.ensure_future(way) for way in ways}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

"""One process of the operating system that dies when we do."""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import psutil

_PR_SET_PDEATHSIG = 1
# A log that is larger when its process starts is set aside: too small loses the history of a crash loop,
# too large fills the disk of a laptop.
_LOG_LIMIT_BYTES = 16 * 1024 * 1024


Ask = Callable[[], Awaitable[bool]]
Prepare = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """The preparation of a process that needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run, how to tell that it is ready, and how long it may take to get ready and to stop."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log_path: Path
    # Answers now; whoever asks bounds the time and takes an error for "not yet".
    is_ready: Ask
    # Asked now and then once it was ready: whether it moves. Who says no, or nothing, again and again is replaced.
    is_live: Ask | None = None
    # Too short asks a process that has better to do, too long leaves one that hangs for three times as long.
    live_poll_s: float = 5.0
    # What must be true before anybody may use it, done anew after each restart (the topics of a new broker).
    prepare: Prepare = nothing
    port: int
    ops_url: str = ""
    # A process that dies is noticed at once; this is only for one that hangs. Seven Pythons that start together on two
    # busy cores were seen to take more than a minute.
    ready_within_s: float = 180.0
    stop_within_s: float = 30.0


class Child:
    """A running process; made by `start_child`, used from one event loop."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.started_s = time.monotonic()
        self.create_time_s = _create_time_s(process.pid)

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Return the exit code, negative for the signal that ended it."""
        return await self._process.wait()

    async def ends_within(self, wait_s: float) -> bool:
        """Whether the process ends in that time."""
        try:
            async with asyncio.timeout(wait_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, grace_s: float) -> int:
        """Ask it to drain (SIGTERM), kill it when `grace_s` is over, and return the exit code."""
        if self.is_running:
            self._process.terminate()
            if not await self.ends_within(grace_s):
                self.kill()
        return await self.wait()

    def kill(self) -> None:
        """End it now, if it still runs."""
        if self.is_running:
            self._process.kill()


async def start_child(spec: ProcessSpec) -> Child:
    """Start the process, its output appended to the log.

    It leads a session of its own, so that Ctrl-C reaches the supervisor alone, which then stops all in order.
    """
    spec.log_path.parent.mkdir(parents=True, exist_ok=True)
    if spec.log_path.exists() and spec.log_path.stat().st_size > _LOG_LIMIT_BYTES:
        spec.log_path.replace(spec.log_path.with_suffix(".log.1"))
    with open_log(spec.log_path) as log:
        process = await asyncio.create_subprocess_exec(
            *spec.argv,
            env=spec.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
    return Child(process)


def open_log(path: Path) -> BinaryIO:
    """Open a log to append to, never through a link: whoever may write to the folder must not choose what we write."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o644), "ab")


def _die_with(parent_pid: int) -> Callable[[], None] | None:
    """Return what a new child runs before exec so that the kernel kills it when its parent is gone.

    A supervisor that is SIGKILLed cannot stop anybody, and Tansu and Valkey offer no pipe to watch, so on Linux the
    kernel does it (prctl(2), PR_SET_PDEATHSIG; kept across exec). It is armed between fork and exec because asking
    for it from a wrapper program would cost a second Python start for each process. Elsewhere the next `up` or
    `down` ends what the run file still names.
    """
    if sys.platform != "linux":
        return None
    prctl = _libc().prctl

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the line above: then no signal will come.
        if os.getppid() != parent_pid:
            os._exit(1)

    return arm


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _create_time_s(pid: int) -> float:
    """When the process began; 0 if it is gone already, which matches no process that lives."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0

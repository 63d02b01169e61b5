"""A child process that ends when the supervisor ends."""

import asyncio
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import psutil
import structlog

from control_plane.local.fork_server import ForkedProcess, ForkServer, ForkServerError
from control_plane.local.forked_service import ForkRequest
from control_plane.local.linux_process import die_with, libc
from control_plane.local.state_directory import append_all, open_log

log = structlog.get_logger(__name__)

# For the last words of a program that has ended.
_LAST_WORDS_S = 2.0
# Not known: matches no process that lives.
_NO_TIME_S = 0.0


Ask = Callable[[], Awaitable[bool]]
Prepare = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Do nothing: the preparation of a process that needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run, how to tell that it is ready, and how long it may take to get ready and to stop."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    # Arguments of `inferlane` that run the same, and the server that forks them; without both, `argv` is executed.
    arguments: tuple[str, ...] = ()
    forks: ForkServer | None = None
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
    # A program of others may end when it cannot write what it says: it says it to us, and we write.
    is_foreign: bool = False
    # A process that dies is noticed at once; this is only for one that hangs. Seven Pythons that start together on two
    # busy cores were seen to take more than a minute.
    ready_within_s: float = 180.0
    stop_within_s: float = 30.0


class Child:
    """A running process; made by `start_child`, used from one event loop."""

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess, log_path: Path) -> None:
        self._process = process
        self._writing = (
            asyncio.create_task(append_all(process.stdout, log_path), name=f"log:{log_path.stem}")
            if process.stdout
            else None
        )
        self.pid = process.pid
        self.started_s = time.monotonic()
        self.create_time_s = _create_time_s(process.pid)

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for the end and return the exit code; negative: the signal that ended it."""
        code = await self._process.wait()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=_LAST_WORDS_S)
        return code

    async def ends_within(self, wait_s: float) -> bool:
        """Wait and return whether the process has ended within that time."""
        try:
            async with asyncio.timeout(wait_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, grace_s: float) -> int:
        """Stop it: drain (SIGTERM), kill after `grace_s` seconds, and return the exit code."""
        if self.is_running:
            self._process.terminate()
            if not await self.ends_within(grace_s):
                self.kill()
        return await self.wait()

    def kill(self) -> None:
        """Kill it now (SIGKILL), if it still runs."""
        if self.is_running:
            self._process.kill()


async def start_child(spec: ProcessSpec) -> Child:
    """Start the process and append its output to the log; if the log cannot be opened, start without it.

    It leads a session of its own, so that Ctrl-C reaches the supervisor alone, which then stops all in order.

    Raises:
        OSError, subprocess.SubprocessError: the system does not start it.
    """
    with _output_of(spec) as output:
        return Child(await _fork(spec, output) or await _execute(spec, output), spec.log_path)


async def _fork(spec: ProcessSpec, output: BinaryIO | int) -> ForkedProcess | None:
    if spec.forks is None or not spec.arguments:
        return None
    try:
        request = ForkRequest(spec.arguments, dict(spec.env))
        return await spec.forks.fork(request, None if isinstance(output, int) else output)
    except ForkServerError as error:
        log.debug("not_forked", name=spec.name, reason=str(error))
        return None


async def _execute(spec: ProcessSpec, output: BinaryIO | int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *spec.argv,
        env=spec.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_us(),
    )


@contextmanager
def _output_of(spec: ProcessSpec) -> Iterator[BinaryIO | int]:
    """Yield where the process writes its output."""
    if spec.is_foreign:
        yield asyncio.subprocess.PIPE
        return
    try:
        file = open_log(spec.log_path)
    except OSError as error:
        log.warning("log_not_opened", path=str(spec.log_path), reason=error.strerror)
        yield asyncio.subprocess.DEVNULL
        return
    with file:
        yield file


def _die_with_us() -> Callable[[], None] | None:
    """Return what a new child runs before exec so that the kernel kills it when this process is gone.

    A supervisor that is SIGKILLed cannot stop anybody, and Tansu and Valkey offer no pipe to watch, so on Linux the
    kernel does it (it is kept across exec). It is armed between fork and exec because asking for it from a wrapper
    program would cost a second Python start for each process. Elsewhere the next `up` or `down` ends what the run
    file still names.
    """
    if sys.platform != "linux":
        return None
    libc()
    return partial(die_with, os.getpid())


def _create_time_s(pid: int) -> float:
    """Return when the process started; 0 if it has ended or cannot be inspected."""
    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, OSError):
        return _NO_TIME_S


_OUR_PREFIX = "INFERLANE_"
_STORE_USERS = frozenset({"api", "router", "worker"})
# Our settings that hold a secret, with the services that use it. All of them use the broker.
_SECRETS: Mapping[str, frozenset[str]] = {
    "INFERLANE_API_KEY": frozenset({"dashboard"}),
    "INFERLANE_REDIS_URL": _STORE_USERS,
    "INFERLANE_FEEDBACK_SECRET": _STORE_USERS,
    "INFERLANE_REDIS_PASSWORD": _STORE_USERS,
    # No secrets, but refused where the URL and the password are not.
    "INFERLANE_REDIS_USERNAME": _STORE_USERS,
    "INFERLANE_REDIS_SSL_CAFILE": _STORE_USERS,
    "INFERLANE_API_KEYS_FILE": frozenset({"api"}),
    "INFERLANE_WEBHOOK_SECRET": frozenset({"webhooks"}),
    "INFERLANE_PROMETHEUS_TOKEN": frozenset({"router"}),
}
# OpenTelemetry's own variables may hold the key of a collector, which every service sends its spans to.
_READ_BY_ALL = (_OUR_PREFIX, "OTEL_")
# Names under which other programs keep secrets. No process of ours reads them.
_LOOKS_SECRET = re.compile(
    r"(?:^|_)(?:[A-Z]*PASSWORD|PASSWD|(?<=_)PWD|PASSPHRASE|SECRETS?|TOKENS?|CREDENTIALS?|(?:API|ACCESS|PRIVATE|SECRET|AUTH)_?KEYS?|AUTH)(?:_|$)",
    re.IGNORECASE,
)


def child_environment(
    service: str, ours: Mapping[str, str], chosen: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of a service's process: ours, the profile's and its own, without others' secrets.

    A compromised process, or a leaked environment, then reveals only the secrets of that service.
    """
    return {name: value for name, value in {**ours, **chosen, **own}.items() if _may_have(service, name)}


def _may_have(service: str, name: str) -> bool:
    users = _SECRETS.get(name)
    if users is not None:
        return service in users
    return name.startswith(_READ_BY_ALL) or not _LOOKS_SECRET.search(name)

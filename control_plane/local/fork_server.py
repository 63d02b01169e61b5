"""The fork server: a process that has loaded the modules of all services, and forks a service on request.

A service that is executed imports the same 60 MB of modules as the others, in a second of CPU. Forked processes share
those pages. The supervisor loads the modules, and forks the server before it has threads or an event loop, so the
server has none either. A service is forked twice, and the supervisor, a subreaper of its descendants, becomes the
parent of the grandchild: it waits for it and signals it, and the kernel kills it with the supervisor, as if it had been
executed. Services go on if the server ends.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

import msgspec
import structlog

from control_plane.local.forked_service import ForkAnswer, ForkRequest, serve_forks
from control_plane.local.linux_process import become_subreaper, thread_fault

log = structlog.get_logger(__name__)

_MOST_ANSWER_BYTES = 4096
# The wait for a server that may hang. Too short executes a service that a busy machine would soon have forked.
_ANSWER_WITHIN_S = 10.0
# The code that asyncio reports for a child whose exit status was already collected.
_UNKNOWN_EXIT_CODE = 255


class ForkServerError(OSError):
    """The fork server does not fork. Remedy: execute the program; `inferlane up` does that by itself."""


class ForkServer:
    """The supervisor's side of the server. Call `start` before there is an event loop; use it from one."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self._control = control
        # One request at a time: an answer does not name its request.
        self._turn = asyncio.Lock()
        self._is_lost = False
        self._patience_s = _ANSWER_WITHIN_S

    @classmethod
    def start(cls, load: Callable[[], None], run: Callable[[Sequence[str]], int]) -> Self:
        """Load the modules of the services and fork the server.

        Both processes keep them: pages that only one of them had loaded to would be copied.

        In a service that is forked later this does not return: it raises SystemExit with what `run` returned.

        Raises:
            ForkServerError: forking is unsafe here, or the system does not support it.
        """
        if sys.platform != "linux":
            raise ForkServerError("only Linux kills the services with a supervisor that is killed")
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            raise ForkServerError(f"the kernel has no pidfd_open ({error.strerror})") from error
        load()
        if fault := thread_fault():
            raise ForkServerError(fault)
        # Exclude what is loaded so far from garbage collection, which would write to all its pages.
        gc.collect()
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        supervisor = os.getpid()
        become_subreaper()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError as error:
            raise ForkServerError(f"the system forks no process ({error.strerror})") from error
        if pid == 0:
            ours.close()
            sys.exit(serve_forks(theirs, supervisor=supervisor, run=run))
        theirs.close()
        ours.setblocking(False)
        return cls(pid, ours)

    async def fork(self, request: ForkRequest, output: BinaryIO | None) -> "ForkedProcess":
        """Start a service whose standard output and error are the file `output`; None: they go nowhere.

        Raises:
            ForkServerError: the service was not started.
        """
        async with self._turn:
            if self._is_lost:
                raise ForkServerError("the fork server has ended")
            try:
                async with asyncio.timeout(self._patience_s):
                    return await self._fork(request, output)
            except ForkServerError:
                raise
            except (OSError, msgspec.DecodeError) as error:
                log.warning(
                    "fork_server_lost",
                    pid=self.pid,
                    reason=repr(error),
                    effect="processes that start from now on load their own modules: more memory, a slower start",
                )
                self.close()
                raise ForkServerError(f"the fork server does not answer ({error!r})") from error
            except asyncio.CancelledError:
                # A late answer would be mistaken for that of the next request.
                self.close()
                raise

    async def _fork(self, request: ForkRequest, output: BinaryIO | None) -> "ForkedProcess":
        may_begin, begin = os.pipe()
        try:
            self._send(request, output, may_begin)
            found = await asyncio.get_running_loop().sock_recv(self._control, _MOST_ANSWER_BYTES)
            answer = msgspec.msgpack.decode(found, type=ForkAnswer)
            if answer.error:
                raise ForkServerError(answer.error)
            process = ForkedProcess(answer.pid)
            # A service that does not get this byte exits, so none runs without the supervisor's knowledge.
            os.write(begin, b"1")
        finally:
            os.close(may_begin)
            os.close(begin)
        return process

    def _send(self, request: ForkRequest, output: BinaryIO | None, may_begin: int) -> None:
        with request.to_file() as file, Path(os.devnull).open("wb") as nowhere:
            descriptors = [file.fileno(), (output or nowhere).fileno(), may_begin]
            socket.send_fds(self._control, [b"fork"], descriptors)

    def close(self) -> None:
        """End the server; its services go on."""
        self._is_lost = True
        self._control.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class ForkedProcess:
    """A child of this process that asyncio did not start, with the methods of `asyncio.subprocess.Process`."""

    stdout = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._descriptor = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._reap)

    async def wait(self) -> int:
        """Wait for the end and return the exit code; negative: the signal that ended it."""
        while self.returncode is None:
            await self._ended.wait()
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, signum: signal.Signals) -> None:
        # Until it is reaped, which happens on this event loop, no other process can get its pid.
        if self.returncode is None:
            os.kill(self.pid, signum)

    def _reap(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        try:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            log.warning("exit_code_unknown", pid=self.pid)
            self.returncode = _UNKNOWN_EXIT_CODE
        self._ended.set()

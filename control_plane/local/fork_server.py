"""A process that has loaded what our services share, and forks each of them on request.

Each service that is started anew imports the same 60 MB of modules, in a second of CPU. Forked processes share those
pages. The server is a child of the supervisor, forked before that has threads or an event loop, so that it has none
either; it loads the modules while the supervisor starts broker and store. A service is forked twice, and the
supervisor, as the subreaper of its descendants, becomes the parent of the second: it waits for it, signals it and takes
it along when it is killed, as if it had started it itself. The end of the server ends no service.
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
# Of a server that hangs. Too short executes what a busy machine would have forked a moment later.
_ANSWER_WITHIN_S = 10.0
# As long as it may still load the modules, a second of CPU.
_FIRST_ANSWER_WITHIN_S = 60.0
# As asyncio reports a child whose exit status somebody else has taken.
_UNKNOWN_EXIT_CODE = 255


class ForkServerError(OSError):
    """The fork server does not fork. Remedy: execute the program; `inferlane up` does that by itself."""


class ForkServer:
    """The supervisor's side of the server. `start` it before there is an event loop, use it from one."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self._control = control
        # One request after the other: an answer does not say to which it belongs.
        self._turn = asyncio.Lock()
        self._is_lost = False
        self._patience_s = _FIRST_ANSWER_WITHIN_S

    @classmethod
    def start(cls, load: Callable[[], None], run: Callable[[Sequence[str]], int]) -> Self:
        """Fork the server, which then loads the modules of the services.

        In a service that is forked later this does not return: it raises SystemExit with what `run` returned.

        Raises:
            ForkServerError: it would not be safe here, or the system does not do it.
        """
        if sys.platform != "linux":
            raise ForkServerError("only Linux kills the services with a supervisor that is killed")
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            raise ForkServerError(f"the kernel has no pidfd_open ({error.strerror})") from error
        if fault := thread_fault():
            raise ForkServerError(fault)
        # What is loaded so far stays, here too: a garbage collection would write to all its pages.
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
            sys.exit(serve_forks(theirs, supervisor=supervisor, load=load, run=run))
        theirs.close()
        ours.setblocking(False)
        return cls(pid, ours)

    async def fork(self, request: ForkRequest, output: BinaryIO | None) -> "ForkedProcess":
        """Start a service whose standard output and error are the file `output`; None: they go nowhere.

        Raises:
            ForkServerError: it was not started.
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
                # The answer would be taken for that of the next request.
                self.close()
                raise

    async def _fork(self, request: ForkRequest, output: BinaryIO | None) -> "ForkedProcess":
        may_begin, begin = os.pipe()
        try:
            self._send(request, output, may_begin)
            found = await asyncio.get_running_loop().sock_recv(self._control, _MOST_ANSWER_BYTES)
            answer = msgspec.msgpack.decode(found, type=ForkAnswer)
            self._patience_s = _ANSWER_WITHIN_S
            if answer.error:
                raise ForkServerError(answer.error)
            process = ForkedProcess(answer.pid)
            # A service that waits for this and does not get it ends: none runs that nobody knows of.
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
        """End the server; the services that it forked go on."""
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
        # Until it is reaped, which happens on this event loop, its pid is nobody else's.
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

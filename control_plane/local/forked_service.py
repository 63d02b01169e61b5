"""The fork server's own side: it forks, and prepares each service before the service begins."""

import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import setproctitle

from control_plane.local.linux_process import die_with

_DESCRIPTORS = 3
_MOST_ANSWER_BYTES = 4096
_FAILED = 1


class ForkRequest(msgspec.Struct, frozen=True):
    """A request to fork a service: the arguments of `inferlane`, and the complete environment."""

    arguments: tuple[str, ...]
    environment: dict[str, str]

    def to_file(self) -> BinaryIO:
        """Return a file in memory: an environment may be longer than a message of a socket."""
        file = os.fdopen(os.memfd_create("request"), "w+b")
        file.write(msgspec.msgpack.encode(self))
        file.flush()
        return file


class ForkAnswer(msgspec.Struct, frozen=True):
    """The pid of the service, or the reason why it was not forked."""

    pid: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Descriptors:
    request: int
    output: int
    may_begin: int

    def close(self) -> None:
        for descriptor in (self.request, self.output, self.may_begin):
            os.close(descriptor)


def serve_forks(control: socket.socket, *, supervisor: int, run: Callable[[Sequence[str]], int]) -> int:
    """Fork a service for each message until the supervisor is gone. Returns in the services, with what `run` returned.

    A message carries three file descriptors: the request, where output goes, and a pipe that says when to begin.
    """
    # Leave the terminal's process group: Ctrl-C is for the supervisor, which stops everything in order.
    os.setsid()
    die_with(supervisor)
    # This also overwrites the inherited environment, which `/proc` would otherwise show for each service.
    setproctitle.setproctitle("inferlane fork-server")
    while True:
        _, found, _, _ = socket.recv_fds(control, 1, _DESCRIPTORS)
        if len(found) != _DESCRIPTORS:
            os._exit(0)
        descriptors = _Descriptors(request=found[0], output=found[1], may_begin=found[2])
        answer = _fork_twice()
        if answer is None:
            control.close()
            return _become(descriptors, supervisor, run)
        descriptors.close()
        control.send(msgspec.msgpack.encode(answer))


def _fork_twice() -> ForkAnswer | None:
    """Fork a child that forks and ends, so that the supervisor adopts the grandchild; None in the grandchild."""
    reading, writing = os.pipe()
    try:
        middle = os.fork()
        if middle == 0:
            try:
                pid = os.fork()
            except OSError as error:
                os.write(writing, msgspec.msgpack.encode(ForkAnswer(error=str(error))))
                os._exit(_FAILED)
            if pid == 0:
                return None
            os.write(writing, msgspec.msgpack.encode(ForkAnswer(pid=pid)))
            os._exit(0)
        # Once the child has ended, the supervisor is the parent of the grandchild.
        os.waitpid(middle, 0)
        return msgspec.msgpack.decode(os.read(reading, _MOST_ANSWER_BYTES), type=ForkAnswer)
    except OSError as error:
        return ForkAnswer(error=str(error))
    finally:
        os.close(reading)
        os.close(writing)


def _become(descriptors: _Descriptors, supervisor: int, run: Callable[[Sequence[str]], int]) -> int:
    """Run the service and return its exit code; exit at once if the supervisor does not know this process."""
    if not os.read(descriptors.may_begin, 1):
        os._exit(_FAILED)
    die_with(supervisor)
    os.setsid()
    with os.fdopen(descriptors.request, "rb") as file:
        file.seek(0)
        request = msgspec.msgpack.decode(file.read(), type=ForkRequest)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(descriptors.output, 1)
    os.dup2(descriptors.output, 2)
    os.close(descriptors.output)
    os.close(descriptors.may_begin)
    setproctitle.setproctitle(" ".join(("inferlane", *request.arguments)))
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv[1:] = request.arguments
    try:
        return run(request.arguments)
    except Exception:  # noqa: BLE001 - as the interpreter does; further out it is an error of `inferlane up`
        traceback.print_exc()
        return _FAILED

"""The processes of the stack that a tier shares: found by their pool, and held still."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from inferlane.runtime.runfile import RunFile
from tests.e2e.conftest import Stack


def pid_of(stack: Stack, pool: str) -> int:
    record = RunFile(stack.folder / ".inferlane").read()
    assert record is not None
    return next(process.pid for process in record.processes if process.pool == pool)


@contextmanager
def paused(stack: Stack, pool: str) -> Iterator[None]:
    """The pool's process stands still while the block runs; shorter than its supervisor's patience."""
    pid = pid_of(stack, pool)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)

"""Linux calls for parents and children beyond POSIX (prctl(2))."""

import ctypes
import os
import signal
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with(parent_pid: int) -> None:
    """Make the kernel kill this process when its parent ends; exit now if the parent has already ended."""
    libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above: then no signal will come.
    if os.getppid() != parent_pid:
        os._exit(1)


def become_subreaper() -> None:
    """Become the parent of each descendant whose own parent ends."""
    libc().prctl(_PR_SET_CHILD_SUBREAPER, 1)


def thread_fault() -> str:
    """Return why this process must not fork, if it has threads, those of libraries too: empty if it has one."""
    others = sum(1 for _ in Path("/proc/self/task").iterdir()) - 1
    return f"{others} threads of a library run, and locks that they hold would stay locked in a fork" if others else ""


@cache
def libc() -> ctypes.CDLL:
    """Return the C library; called before a fork, so that a child loads nothing."""
    return ctypes.CDLL(None)

"""Ask Linux for long time slices, so that whoever wakes on a busy core runs before this process goes on.

A process that wakes takes a core at once from one whose time slice is longer than its own, and otherwise waits for a
tick of the kernel, 1 to 10 ms. Over time each keeps its share of the cores, so that other than with `nice`, a busy
machine does not make this process slower than others.
Source: "EEVDF Scheduler" in the documentation of Linux, and sched_setattr(2); slices since Linux 6.12.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

# Longer than that of others, which is 3 ms or less, and about a tick of usual kernels. A shorter one is closer to that
# of others. Where cores are short, a process is owed up to a time slice and then runs that long without a break.
TIME_SLICE_NS = 5_000_000
# By `platform.machine()`: the numbers of sched_setattr.
_SYSTEM_CALLS = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
# size, policy, flags, nice, priority, runtime, deadline, period.
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def lengthen_time_slices() -> bool:
    """Give every thread of this process, and those that they start, long time slices; return whether Linux did it.

    Linux before 6.12 only keeps this process from taking a core from another when it wakes (`SCHED_BATCH`). Elsewhere
    nothing changes.
    """
    number = _SYSTEM_CALLS.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    return all([_lengthen(call, number, thread) for thread in threads])  # noqa: C419 - every thread, whatever fails


def _lengthen(call: "ctypes._NamedFuncPointer", number: int, thread: int) -> bool:
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_BATCH, 0, nice, 0, TIME_SLICE_NS, 0, 0)
    return bool(call(number, thread, attributes, 0) == 0)

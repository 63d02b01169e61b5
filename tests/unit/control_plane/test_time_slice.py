"""The time slices of a bulk job: longer than those of whoever serves clients, at the same share of the cores."""

import platform
import subprocess
import sys

import pytest

from control_plane.bulk.time_slice import TIME_SLICE_NS

SHOW = """
import os, threading
from pathlib import Path
from control_plane.bulk.time_slice import lengthen_time_slices

os.nice(3)
ended = threading.Event()
threading.Thread(target=ended.wait).start()
was_done = lengthen_time_slices()
threading.Thread(target=ended.wait).start()
for thread in Path("/proc/self/task").iterdir():
    number = int(thread.name)
    print(was_done, os.sched_getscheduler(number) == os.SCHED_BATCH, os.getpriority(os.PRIO_PROCESS, number))
    slices = [line.split()[-1] for line in (thread / "sched").read_text().splitlines() if line.startswith("se.slice")]
    print("slices", *slices)
ended.set()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="time slices are set on Linux only")
def test_every_thread_has_long_time_slices_and_keeps_its_priority() -> None:
    shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, timeout=60, check=True).stdout
    lines = shown.splitlines()
    assert lines[::2] == ["True True 3"] * 3
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    if release >= (6, 12):
        assert lines[1::2] == [f"slices {TIME_SLICE_NS}"] * 3

"""What the figures were measured on."""

import os
import platform
from datetime import UTC, datetime

import psutil

from benchmarks.measured import Machine
from models.timing import cpu_name


def this_machine() -> Machine:
    """The one that this runs on, now."""
    return Machine(
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
    )

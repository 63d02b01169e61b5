"""`python -m tests.faults.harness.killable_worker worker …`: the real worker, which SIGKILLs itself at one kind of row.

A model that takes its process along (a fault in a native kernel, a row that needs more memory than there is) cannot be
had on demand; what the worker around it does then is what is tested, and that is the real one.
"""

import os
import signal
from collections.abc import Mapping

import numpy as np

from control_plane.cli.main import main
from tests.faults.harness.questions import KILLER_VALUE
from workers.model import OnnxModel

_run = OnnxModel.run


def run_or_die(self: OnnxModel, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run the model; SIGKILL this process where an input holds `KILLER_VALUE`."""
    if any((array == np.float32(KILLER_VALUE)).any() for array in inputs.values()):
        os.kill(os.getpid(), signal.SIGKILL)
    return _run(self, inputs)


if __name__ == "__main__":
    OnnxModel.run = run_or_die  # type: ignore[method-assign]  # what the process is for
    main()

"""`python -m tests.faults.harness.killable_worker worker …`: the real worker, which SIGKILLs itself at one kind of row.

A model that takes its process along (a fault in a native kernel, a row that needs more memory than there is) cannot be
had on demand; what the worker around it does then is what is tested, and that is the real one.
"""

import os
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np

import workers.main
from inferlane.cli.main import main
from tests.faults.harness.questions import KILLER_VALUE
from workers.session import OnnxModel


class KillableModel(OnnxModel):
    """The model, and the end of its process where an input holds `KILLER_VALUE`."""

    def run(self, inputs: Mapping[str, np.ndarray], *more: Any, **named: Any) -> Any:
        """Run it, or die."""
        if any((array == KILLER_VALUE).any() for array in inputs.values()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(inputs, *more, **named)


if __name__ == "__main__":
    workers.main.OnnxModel = KillableModel  # type: ignore[misc]  # what the process is for
    main()

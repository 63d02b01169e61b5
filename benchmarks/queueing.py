"""How long a process stood ready and had no core: on a machine that does more at once than it has cores for."""

from pathlib import Path
from typing import Self

_NS = 1e-9


class QueueGauge:
    """Counts while it is entered: seconds that the busiest thread of `pid` waited for a core.

    The busiest is the one that used most CPU time meanwhile. Source: `/proc/<pid>/task/<tid>/schedstat` of Linux, whose
    first two numbers are nanoseconds on a core and nanoseconds in a run queue; elsewhere 0 is counted.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: dict[str, tuple[int, int]] = {}
        self.waited_s = 0.0

    def __enter__(self) -> Self:
        self._before = run_queue_of(self._pid)
        return self

    def __exit__(self, *_: object) -> None:
        self.waited_s = busiest_wait_s(self._before, run_queue_of(self._pid))


def busiest_wait_s(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float:
    """From nanoseconds on a core and in a run queue by thread; a thread that is new began at 0."""
    spent = [
        (ran - before.get(thread, (0, 0))[0], waited - before.get(thread, (0, 0))[1])
        for thread, (ran, waited) in after.items()
    ]
    return max(spent)[1] * _NS if spent else 0.0


def run_queue_of(pid: int) -> dict[str, tuple[int, int]]:
    """Nanoseconds on a core and in a run queue by thread, of those that live."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            ran, waited, _ = path.read_text(encoding="ascii").split()
        except OSError:
            # The thread has ended.
            continue
        found[path.parent.name] = (int(ran), int(waited))
    return found

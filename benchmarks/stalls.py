"""How much of the time this machine ran at all: a virtual machine that its host stops looks like a slow program."""

import threading
import time
from typing import Self

_INTERVAL_S = 0.002
# A sleeper is woken within a few milliseconds even on cores that are busy. Too small counts our own load as stalls,
# too large overlooks short ones.
_STALL_S = 0.02


class StallGauge:
    """A thread that sleeps 2 ms at a time and adds up how much longer it was away."""

    def __init__(self) -> None:
        self._stalled_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def stalled_s(self) -> float:
        """Seconds that the machine stood still since the start; the difference of two readings is what counts."""
        return self._stalled_s

    def _watch(self) -> None:
        last_s = time.perf_counter()
        while not self._stop.is_set():
            time.sleep(_INTERVAL_S)
            now_s = time.perf_counter()
            late_s = now_s - last_s - _INTERVAL_S
            if late_s > _STALL_S:
                self._stalled_s += late_s
            last_s = now_s

"""Time as an argument, so that a test can move it."""

import time
from typing import Protocol


class Clock(Protocol):
    def now_s(self) -> float:
        """Seconds since the Unix epoch, comparable between machines up to their clock skew."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back, comparable within this process only."""
        ...


class SystemClock:
    """The machine's clocks."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)

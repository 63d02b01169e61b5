"""End a run of the model that takes too long, so that another version can still answer its requests."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from onnxruntime import RunOptions

    from workers.failure_limit import FailureLimit

log = structlog.get_logger(__name__)

# The looks at a run before it is over its limit. Looks are counted instead of seconds: when the whole machine pauses,
# the run pauses too, and that time must not count against it.
_LOOKS = 20
# How many times the estimate from earlier runs a run may take: a large batch of a slow model is not a hang.
_ESTIMATES = 4.0


class RunLimit:
    """Watches runs from a thread of its own, and ends a long one through its run options; then the worker halts.

    `close` ends the thread.

    onnxruntime ends a run between two nodes of the graph and between two rounds of a loop; then the run raises.
    """

    def __init__(self, limit_s: float, options: "RunOptions", *, failures: "FailureLimit") -> None:
        """`options` are those of every run of the model."""
        self._limit_s = limit_s
        self._options = options
        self._failures = failures
        self._lock = threading.Lock()
        self._wakes = threading.Event()
        self._is_running = False
        self._looks_left = 0
        self._has_ended = False
        self._watcher: threading.Thread | None = None
        self._is_closed = False

    @property
    def hands_over(self) -> bool:
        """Whether the worker is halted and tries nothing now: requests with a fallback should not wait here."""
        return self._failures.is_halted and self._failures.allowance(1) == 0

    @contextmanager
    def watch(self, *, estimate_s: float) -> Iterator[None]:
        """Watch the run of this block. `estimate_s` is how long it should take, infinite where nobody knows."""
        longer = 1.0 if math.isinf(estimate_s) else max(1.0, _ESTIMATES * estimate_s / self._limit_s)
        self._looks_left = math.ceil(_LOOKS * longer)
        with self._lock:
            self._is_running = True
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._look, name="run_limit", daemon=True)
                self._watcher.start()
        self._wakes.set()
        try:
            yield
        finally:
            with self._lock:
                self._is_running = False
                if not self._is_closed:
                    self._wakes.clear()
                self._has_ended |= self._options.terminate
                self._options.terminate = False

    def close(self) -> None:
        """End the thread, which watches the run under way to its end."""
        with self._lock:
            self._is_closed = True
        self._wakes.set()

    def halt_if_ended(self) -> None:
        """Halt the worker if a run was ended since the last call: the next one would take as long."""
        if self._has_ended:
            self._has_ended = False
            self._failures.halt("a run of the model did not end in time")

    def _look(self) -> None:
        pause = threading.Event()
        while self._wakes.wait():
            with self._lock:
                if self._is_closed and not self._is_running:
                    self._watcher = None
                    return
            pause.wait(self._limit_s / _LOOKS)
            with self._lock:
                self._looks_left -= 1
                if self._looks_left <= 0 and self._is_running and not self._options.terminate:
                    self._options.terminate = True
                    log.error("run_ended", limit_s=self._limit_s, effect="its requests count as failed by the model")

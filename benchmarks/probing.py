"""Correctness under load: rows asked beside wrk, their answers held against onnxruntime's."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.cases import Case
from benchmarks.systems.running import Running, post, probabilities_in
from models.model_session import open_session
from models.training import INPUT, PROBABILITIES

# Often enough for a few answers a second, seldom enough to take nothing from what is measured.
_PAUSE_S = 0.1


class Probe:
    """Asks one row after the other and counts how many answers are right."""

    def __init__(self, running: Running, case: Case) -> None:
        self._running = running
        self._rows = case.rows
        self._tolerance = case.tolerance
        (self._expected,) = open_session(case.onnx).run([PROBABILITIES], {INPUT: case.rows})
        self._number = 0
        self.equal = 0
        self.unequal = 0
        self.failed = 0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A thread asks while the context is entered: one request more than the load's."""
        stop = threading.Event()

        def ask_for_ever() -> None:
            while not stop.wait(_PAUSE_S):
                self.ask()

        thread = threading.Thread(target=ask_for_ever, name="probe", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def ask(self) -> None:
        """Ask the next row."""
        self._number = (self._number + 1) % len(self._rows)
        try:
            answer = post(self._running.url, self._running.body(self._rows[self._number]))
        except OSError:
            self.failed += 1
            return
        if np.allclose(probabilities_in(answer), self._expected[self._number], rtol=0, atol=self._tolerance):
            self.equal += 1
        else:
            self.unequal += 1

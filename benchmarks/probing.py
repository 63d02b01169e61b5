"""Correctness under load: rows asked beside wrk, their answers held against onnxruntime's."""

import threading
from typing import Self

import numpy as np

from benchmarks.cases import Case
from benchmarks.systems.running import Running, post, probabilities_in
from models.export import INPUT, PROBABILITIES
from models.measure import open_session

# Often enough for a few answers a second, seldom enough to take nothing from what is measured.
_PAUSE_S = 0.1


class Probe:
    """A thread that asks one row after the other while it is entered."""

    def __init__(self, running: Running, case: Case) -> None:
        self._running = running
        self._rows = case.rows
        self._tolerance = case.tolerance
        (self._expected,) = open_session(case.onnx).run([PROBABILITIES], {INPUT: case.rows})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_for_ever, name="probe", daemon=True)
        self.equal = 0
        self.unequal = 0
        self.failed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_for_ever(self) -> None:
        number = 0
        while not self._stop.wait(_PAUSE_S):
            number = (number + 1) % len(self._rows)
            try:
                answer = post(self._running.url, self._running.body(self._rows[number]))
            except OSError:
                self.failed += 1
                continue
            if np.allclose(probabilities_in(answer), self._expected[number], rtol=0, atol=self._tolerance):
                self.equal += 1
            else:
                self.unequal += 1

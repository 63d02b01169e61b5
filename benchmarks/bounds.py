"""The upper bounds: onnxruntime alone, one thread, with nothing around it."""

import statistics
import time

import numpy as np
import onnxruntime

from benchmarks.cases import Case
from benchmarks.measured import Bound
from models.model_session import open_session
from models.training import INPUT

BATCHES = (1, 32, 64, 256)
_SECONDS_A_BATCH = 1.0


def measure_bounds(case: Case) -> tuple[Bound, ...]:
    """The bound of each batch size."""
    session = open_session(case.onnx)
    return tuple(_measure(session, case.rows, batch) for batch in BATCHES)


def _measure(session: onnxruntime.InferenceSession, rows: np.ndarray, batch: int) -> Bound:
    block = np.resize(rows, (batch, rows.shape[1]))
    session.run(None, {INPUT: block})
    costs_s: list[float] = []
    ends_s = time.perf_counter() + _SECONDS_A_BATCH
    while time.perf_counter() < ends_s or len(costs_s) < 3:  # noqa: PLR2004 - fewer runs have no median
        started_s = time.thread_time()
        session.run(None, {INPUT: block})
        costs_s.append(time.thread_time() - started_s)
    return Bound(batch=batch, rows_per_s=batch / statistics.median(costs_s), runs=len(costs_s))

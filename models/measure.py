"""What a version of a sample is on this machine: its latency, its accuracy, and what quantizing it changed."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from models.model_session import open_session
from models.quantizing import methods
from models.quantizing.methods import STATIC
from models.timing import interleaved_medians_us
from models.training import INPUT, LABEL, Rows

# Rows of a batch: alone, and as many as a busy worker drains.
BATCH_ROWS = (1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyComparison:
    """What became of a version by quantizing it: ratios over 1 are gains, a negative change is a loss."""

    size_ratio: float
    batch1_speedup: float
    batch64_speedup: float
    accuracy_change: float
    top1_agreement: float


def predict_labels(session: onnxruntime.InferenceSession, features: np.ndarray) -> np.ndarray:
    """Class indices `(rows,) int64` of `features`."""
    labels: np.ndarray = session.run([LABEL], {INPUT: features})[0]
    return labels


def measure_accuracy(session: onnxruntime.InferenceSession, rows: Rows) -> float:
    """The share of `rows` whose label the model gives."""
    return float(np.mean(predict_labels(session, rows.features) == rows.labels))


def measure_latencies_us(
    *sessions: onnxruntime.InferenceSession, features: np.ndarray, batch_rows: int
) -> tuple[float, ...]:
    """Median latency in microseconds of one run of `batch_rows` rows, for each session."""
    batch = np.resize(features, (batch_rows, features.shape[1]))
    return interleaved_medians_us([partial(session.run, None, {INPUT: batch}) for session in sessions])


def compare(source: Path, quantized: Path, rows: Rows) -> AccuracyComparison:
    """Measure what quantizing `source` into `quantized` gained and cost, on held-out `rows`."""
    before, after = open_session(source), open_session(quantized)
    speedups = []
    for batch_rows in BATCH_ROWS:
        before_us, after_us = measure_latencies_us(before, after, features=rows.features, batch_rows=batch_rows)
        speedups.append(before_us / after_us)
    agreement = predict_labels(before, rows.features) == predict_labels(after, rows.features)
    return AccuracyComparison(
        size_ratio=source.stat().st_size / quantized.stat().st_size,
        batch1_speedup=speedups[0],
        batch64_speedup=speedups[1],
        accuracy_change=measure_accuracy(after, rows) - measure_accuracy(before, rows),
        top1_agreement=float(np.mean(agreement)),
    )


METHOD = STATIC.name

_CALIBRATION_BATCH_ROWS = 64


def quantize(source: Path, target: Path, *, calibration: np.ndarray) -> None:
    """Write the int8 form of the model at `source`, a file of `models.training`, to `target`.

    `calibration` is `(rows, features) float32` that look like what will be served.
    """
    starts = range(0, len(calibration), _CALIBRATION_BATCH_ROWS)
    batches = [{INPUT: calibration[start : start + _CALIBRATION_BATCH_ROWS]} for start in starts]
    methods.quantize(source, target, STATIC, calibration=batches)

"""Quantization, and what a version is on this machine: its latency, its accuracy, and what quantizing it changed."""

import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.model_session import open_session
from models.training import INPUT, LABEL, Rows

# Rows of a batch: alone, and as many as a busy worker drains.
BATCH_ROWS = (1, 64)

# Enough for a steady median on a shared machine; the whole takes well under a second a version.
_TURNS = 10
_WARM_UP_RUNS = 5
_RUNS = 20


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
    """Median latency in microseconds of one run of `batch_rows` rows, for each session.

    The sessions take turns, so that a change in the machine's load touches all of them alike; a turn is many runs,
    because a worker serves one model and finds its weights in the CPU's cache.
    """
    batch = np.resize(features, (batch_rows, features.shape[1]))
    latencies_ns: list[list[int]] = [[] for _ in sessions]
    for _ in range(_TURNS):
        for session, samples in zip(sessions, latencies_ns, strict=True):
            samples.extend(_run_turn(session, batch))
    return tuple(statistics.median(samples) / 1_000 for samples in latencies_ns)


def _run_turn(session: onnxruntime.InferenceSession, batch: np.ndarray) -> list[int]:
    samples_ns = []
    for _ in range(_WARM_UP_RUNS + _RUNS):
        started_ns = time.perf_counter_ns()
        session.run(None, {INPUT: batch})
        samples_ns.append(time.perf_counter_ns() - started_ns)
    return samples_ns[_WARM_UP_RUNS:]


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


def cpu_name() -> str:
    """The CPU's own name, and whether it multiplies int8 in one instruction (VNNI), which decides what int8 gains."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.machine()
    return f"{name}, VNNI" if "vnni" in fields.get("flags", "") else name


METHOD = "int8-static"

_CALIBRATION_BATCH_ROWS = 64
# Add and Relu between two products stay in int8 with them; the scaler and the softmax stay in float32.
_INT8_OPERATORS = ("MatMul", "Gemm", "Add", "Relu")


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, rows: np.ndarray) -> None:
        self._batches = iter(
            [rows[start : start + _CALIBRATION_BATCH_ROWS] for start in range(0, len(rows), _CALIBRATION_BATCH_ROWS)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantize(source: Path, target: Path, *, calibration: np.ndarray) -> None:
    """Write the int8 form of the model at `source` to `target`.

    Args:
        source: a float32 ONNX file with one input, named as `models.samples` names it.
        target: where the int8 ONNX file goes.
        calibration: `(rows, features) float32` that look like what will be served; an activation outside the
            range that they reach is clipped.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        # uint8 activations with int8 weights is the pair that VNNI multiplies in one instruction. int8 with int8
        # falls off that path where onnxruntime does not convert it: 30 times slower as QOperator (docs/models.md).
        quantize_static(
            prepared,
            target,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_INT8_OPERATORS),
        )

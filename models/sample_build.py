"""Carry out one recipe: train or quantize, measure, and write the version into the store."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from models.adding.publication import write_version
from models.model_session import open_session, signature_of
from models.quantizing import methods
from models.quantizing.methods import STATIC
from models.samples import QuantizedRecipe, Recipe, Sample, TrainedRecipe
from models.store import VersionAbout, digest_of, onnx_path
from models.timing import cpu_name, interleaved_medians_us
from models.training import INPUT, LABEL, DataSplit, Rows, export_onnx, load_split, train

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


def build_version(models_dir: Path, sample: Sample, recipe: Recipe) -> None:
    """Write the version that `recipe` describes; the source of a quantized one is in the store already."""
    split = load_split(sample)
    source = onnx_path(models_dir, sample.name, recipe.source) if isinstance(recipe, QuantizedRecipe) else None

    def write_onnx(target: Path) -> None:
        if isinstance(recipe, TrainedRecipe):
            classifier = train(recipe, split.train)
            onnx.save(export_onnx(classifier, features=split.train.features.shape[1]), target)
        else:
            quantize(onnx_path(models_dir, sample.name, recipe.source), target, calibration=split.train.features)

    def describe(path: Path) -> VersionAbout:
        return VersionAbout(
            quantization=METHOD if source else "none",
            signature=signature_of(open_session(path)),
            metrics=_measure(path, split),
            quantized=_measure_quantized(source, path, split.held_out) if source else {},
        )

    write_version(models_dir, model=sample.name, version=recipe.version, write_onnx=write_onnx, describe=describe)


def _measure(path: Path, split: DataSplit) -> dict[str, float | str]:
    session = open_session(path)
    metrics: dict[str, float | str] = {
        "held_out_accuracy": round(measure_accuracy(session, split.held_out), 4),
        "held_out_rows": len(split.held_out.labels),
        "train_rows": len(split.train.labels),
    }
    for batch_rows in BATCH_ROWS:
        (latency_us,) = measure_latencies_us(session, features=split.held_out.features, batch_rows=batch_rows)
        metrics[f"batch{batch_rows}_latency_us"] = round(latency_us, 1)
    return metrics | {"cpu": cpu_name()}


def _measure_quantized(source: Path, quantized: Path, held_out: Rows) -> dict[str, float | str]:
    ratios = {name: round(value, 4) for name, value in asdict(compare(source, quantized, held_out)).items()}
    return {"from_version": source.parent.name, "from_digest": digest_of(source), **ratios, "cpu": cpu_name()}

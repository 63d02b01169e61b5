"""Carry out one recipe: train or quantize, measure, and write the version into the store."""

from dataclasses import asdict
from pathlib import Path

import onnx

from models.measure import (
    BATCH_ROWS,
    METHOD,
    compare,
    measure_accuracy,
    measure_latencies_us,
    quantize,
)
from models.model_session import open_session, signature_of
from models.samples import QuantizedRecipe, Recipe, Sample, TrainedRecipe
from models.store import VersionAbout, digest_of, onnx_path, write_version
from models.timing import cpu_name
from models.training import DataSplit, Rows, export_onnx, load_split, train


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

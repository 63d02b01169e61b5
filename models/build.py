"""Build the samples into a store."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from inferlane.errors import ConfigurationError, UnknownModelError
from models.catalog import load_model
from models.datasets import Rows, Split, load_split
from models.export import export_onnx
from models.measure import BATCH_ROWS, compare, cpu_name, measure_accuracy, measure_latencies_us, open_session
from models.quantize import METHOD, quantize
from models.samples import SAMPLES, QuantizedRecipe, Recipe, Sample, TrainedRecipe
from models.store import VersionAbout, digest_of, write_model, write_version
from models.train import train
from models.verify import signature_of, verify_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One version is in the store; `skipped` where it was there and verified already."""

    model: str
    version: str
    skipped: bool


def count_versions() -> int:
    """How many versions the samples have."""
    return sum(len(sample.recipes) for sample in SAMPLES)


def build_samples(models_dir: Path, *, force: bool = False) -> Iterator[Built]:
    """Build each version of each sample that is not in the store or does not verify; with `force`, all of them."""
    for sample in SAMPLES:
        yield from _build_sample(models_dir, sample, force=force)


def _build_sample(models_dir: Path, sample: Sample, *, force: bool) -> Iterator[Built]:
    split = load_split(sample)
    changed = False
    for recipe in sample.recipes:
        skipped = not force and _is_current(models_dir, sample, recipe)
        if not skipped:
            _build_version(models_dir, sample, recipe, split)
            changed = True
        yield Built(model=sample.name, version=recipe.version, skipped=skipped)
    # Last, because it names a default version that has to be there; and not when nothing was built, because
    # somebody may have chosen another default since.
    if changed:
        write_model(
            models_dir / sample.name,
            description=sample.description,
            default_version=sample.default_version,
            classes=sample.classes,
        )


def _is_current(models_dir: Path, sample: Sample, recipe: Recipe) -> bool:
    try:
        version = load_model(models_dir / sample.name).version(recipe.version)
        verify_version(version)
    except (ConfigurationError, UnknownModelError):
        return False
    # A quantized version goes with the weights that it was made of: new ones make it stale.
    return isinstance(recipe, TrainedRecipe) or version.quantized.get("from_digest") == digest_of(
        _onnx_path(models_dir, sample, recipe.source)
    )


def _build_version(models_dir: Path, sample: Sample, recipe: Recipe, split: Split) -> None:
    source = _onnx_path(models_dir, sample, recipe.source) if isinstance(recipe, QuantizedRecipe) else None

    def write_onnx(target: Path) -> None:
        if isinstance(recipe, TrainedRecipe):
            classifier = train(recipe, split.train)
            onnx.save(export_onnx(classifier, features=split.train.features.shape[1]), target)
        else:
            quantize(_onnx_path(models_dir, sample, recipe.source), target, calibration=split.train.features)

    def describe(path: Path) -> VersionAbout:
        return VersionAbout(
            quantization=METHOD if source else "none",
            signature=signature_of(open_session(path)),
            metrics=_measure(path, split),
            quantized=_measure_quantized(source, path, split.held_out) if source else {},
        )

    write_version(models_dir, model=sample.name, version=recipe.version, write_onnx=write_onnx, describe=describe)


def _measure(path: Path, split: Split) -> dict[str, float | str]:
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


def _onnx_path(models_dir: Path, sample: Sample, version: str) -> Path:
    return models_dir / sample.name / version / "model.onnx"

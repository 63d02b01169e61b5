"""Build the samples into a store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inferlane.errors import ConfigurationError, UnknownModelError
from models.samples import SAMPLES, Recipe, Sample, TrainedRecipe
from models.store import digest_of, onnx_path, write_model
from models.store_reader import load_model
from models.verify import verify_version


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
    """Build each version of each sample that is not in the store or does not verify; with `force`, all of them.

    Raises:
        ModuleNotFoundError: there is something to build, and the `models` extra is not installed.
    """
    for sample in SAMPLES:
        yield from _build_sample(models_dir, sample, force=force)


def _build_sample(models_dir: Path, sample: Sample, *, force: bool) -> Iterator[Built]:
    changed = False
    for recipe in sample.recipes:
        skipped = not force and _is_current(models_dir, sample, recipe)
        if not skipped:
            # Loads scikit-learn, skl2onnx and the quantizer: seconds that a store with nothing to build does not pay.
            from models.sample_build import build_version  # noqa: PLC0415 - as above

            build_version(models_dir, sample, recipe)
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
        onnx_path(models_dir, sample.name, recipe.source)
    )

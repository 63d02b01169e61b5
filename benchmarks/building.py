"""Builds the compute-heavy model: 512-2048-2048-1024-10 on random rows from a seed, with the tools of `models/`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from models.adding.publication import write_version
from models.model_session import open_session, signature_of
from models.sample_build import METHOD, quantize
from models.samples import TrainedRecipe
from models.store import VersionAbout, write_model
from models.training import Rows, export_onnx, train

MODEL = "mlp"
VERSION = "v1"
_LAYERS = (2048, 2048, 1024)
_CLASSES = tuple("0123456789")


def build_mlp(models_dir: Path, *, rows: np.ndarray) -> None:
    """Write the float32 model to a store of its own; `rows` is `(rows, 512) float32`."""
    recipe = TrainedRecipe(version=VERSION, hidden_layers=_LAYERS, epochs=1)
    labels = np.arange(len(rows), dtype=np.int64) % len(_CLASSES)

    def write(target: Path) -> None:
        classifier = train(recipe, Rows(features=rows, labels=labels))
        onnx.save(export_onnx(classifier, features=rows.shape[1]), target)

    _write(models_dir, write, quantization="none")


def build_int8(models_dir: Path, *, source: Path, rows: np.ndarray) -> None:
    """Write the int8 form of the model at `source`, calibrated on `rows`, to a store of its own."""
    _write(models_dir, lambda target: quantize(source, target, calibration=rows), quantization=METHOD)


def _write(models_dir: Path, write: Callable[[Path], None], *, quantization: str) -> None:
    def describe(path: Path) -> VersionAbout:
        signature = signature_of(open_session(path))
        return VersionAbout(quantization=quantization, signature=signature, metrics={}, quantized={})

    write_version(models_dir, model=MODEL, version=VERSION, write_onnx=write, describe=describe)
    # Last: where it is there, the build was whole.
    write_model(
        models_dir / MODEL,
        description="512-2048-2048-1024-10, for benchmarks",
        default_version=VERSION,
        classes=_CLASSES,
    )

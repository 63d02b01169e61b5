"""The models that are compared, each in a store of its own so that every system serves just that."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.venvs import STATE

SAMPLES = Path(".inferlane/models")
_VERSION = "v1"
_SEED = 4
_ASKED_ROWS = 64
_MLP_FEATURES = 512
# Enough for the scaler, one epoch and the calibration; what it learns does not matter, what it computes does.
_MLP_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model to serve: its store, its file, rows to ask, and how close an answer must come to onnxruntime's.

    `rows` is `(rows, features) float32`.
    """

    name: str
    model: str
    models_dir: Path
    onnx: Path
    rows: np.ndarray
    tolerance: float


def load_case(name: str) -> Case:
    """The case of that name: `iris`, `mlp` or `mlp-int8`; built where it is not there.

    Raises:
        KeyError: no such case.
        FileNotFoundError: the iris sample was not built.
    """
    return {"iris": _iris, "mlp": _mlp, "mlp-int8": _mlp_int8}[name]()


def _iris() -> Case:
    models_dir = _models_dir("iris")
    if not (models_dir / "iris" / "model.toml").is_file():
        source = SAMPLES / "iris"
        if not source.is_dir():
            raise FileNotFoundError(f"no {source}; build it with `.venv/bin/inferlane models build-samples`")
        shutil.copytree(source / _VERSION, models_dir / "iris" / _VERSION, dirs_exist_ok=True)
        shutil.copy2(source / "model.toml", models_dir / "iris" / "model.toml")
    rows = np.random.default_rng(_SEED).uniform(0.1, 7.9, (_ASKED_ROWS, 4)).round(1).astype(np.float32)
    return _case("iris", model="iris", rows=rows, tolerance=1e-4)


# What builds takes seconds to import, and only the first run needs it.
# ruff: noqa: PLC0415
def _mlp() -> Case:
    if not _is_built("mlp"):
        from benchmarks.building import build_mlp

        build_mlp(_models_dir("mlp"), rows=_mlp_rows())
    return _case("mlp", model="mlp", rows=_mlp_rows()[:_ASKED_ROWS], tolerance=1e-3)


def _mlp_int8() -> Case:
    if not _is_built("mlp-int8"):
        from benchmarks.building import build_int8

        build_int8(_models_dir("mlp-int8"), source=_mlp().onnx, rows=_mlp_rows())
    return _case("mlp-int8", model="mlp", rows=_mlp_rows()[:_ASKED_ROWS], tolerance=1e-3)


def _mlp_rows() -> np.ndarray:
    rows = np.random.default_rng(_SEED).standard_normal((_MLP_ROWS, _MLP_FEATURES))
    # Short numbers, so that the text of a request is what a client would send.
    return rows.round(3).astype(np.float32)


def _case(name: str, *, model: str, rows: np.ndarray, tolerance: float) -> Case:
    models_dir = _models_dir(name)
    onnx = models_dir / model / _VERSION / "model.onnx"
    return Case(name=name, model=model, models_dir=models_dir, onnx=onnx, rows=rows, tolerance=tolerance)


def _is_built(case: str) -> bool:
    return (_models_dir(case) / "mlp" / "model.toml").is_file()


def _models_dir(case: str) -> Path:
    return STATE.absolute() / "models" / case

"""How the samples are trained: their rows, the fit, and the export to ONNX."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from models.samples import Sample, TrainedRecipe

_LOADERS: Mapping[str, Callable[..., Any]] = {"iris": load_iris, "digits": load_digits}
_SPLIT_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Features `(rows, features) float32` and their class indices `(rows,) int64`."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSplit:
    """Rows to train and calibrate on, and rows that no version has seen before it is judged."""

    train: Rows
    held_out: Rows


def load_split(sample: Sample) -> DataSplit:
    """The split of `sample`: stratified by class, and the same at every call."""
    features, labels = _LOADERS[sample.dataset](return_X_y=True)
    train_features, held_out_features, train_labels, held_out_labels = train_test_split(
        features.astype(np.float32),
        labels.astype(np.int64),
        test_size=sample.held_out_share,
        random_state=_SPLIT_SEED,
        stratify=labels,
    )
    return DataSplit(
        train=Rows(features=train_features, labels=train_labels),
        held_out=Rows(features=held_out_features, labels=held_out_labels),
    )


_SEED = 0


def train(recipe: TrainedRecipe, rows: Rows) -> Any:
    """Return a fitted scikit-learn pipeline; the same recipe and rows give the same weights on one machine."""
    classifier = (
        MLPClassifier(recipe.hidden_layers, max_iter=recipe.epochs, random_state=_SEED)
        if recipe.hidden_layers
        else LogisticRegression(max_iter=recipe.epochs, random_state=_SEED)
    )
    pipeline = make_pipeline(StandardScaler(), classifier)
    # One thread: the order of sums, and so the weights, would change with the cores, and on a busy machine the
    # threads of BLAS wait for each other by spinning (measured here: 344 ms instead of 76 for one product).
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # The recipe's epochs are the budget; that the last one could still improve is known.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return pipeline.fit(rows.features, rows.labels)


INPUT = "input"
LABEL = "label"
PROBABILITIES = "probabilities"

# Pinned, so that a newer skl2onnx writes files that the onnxruntime of an older worker still loads.
_OPSET = 21


def export_onnx(classifier: Any, *, features: int) -> onnx.ModelProto:
    """Export a fitted pipeline: `input (rows, features) float32` -> `label (rows,) int64` and `probabilities`.

    `probabilities` is `(rows, classes) float32`; the row axis is dynamic in all three.
    """
    model: onnx.ModelProto = to_onnx(
        classifier,
        name="inferlane",
        initial_types=[(INPUT, FloatTensorType([None, features]))],
        # Without this, probabilities are a list of dictionaries, which no tensor protocol can carry.
        options={"zipmap": False},
        target_opset=_OPSET,
    )
    for node, name in zip(list(model.graph.output), (LABEL, PROBABILITIES), strict=True):
        if node.name != name:
            raise RuntimeError(f"skl2onnx called an output {node.name!r} where {name!r} was expected")
    _declare_scaler_output(model, features)
    onnx.checker.check_model(model)
    return model


def _declare_scaler_output(model: onnx.ModelProto, features: int) -> None:
    # ONNX infers no type for Scaler, an ai.onnx.ml operator. Unsaid, nothing behind it has a type either: MatMul
    # and Add are not fused, and the quantizer gives up.
    for node in model.graph.node:
        if node.op_type == "Scaler":
            info = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [None, features])
            model.graph.value_info.append(info)

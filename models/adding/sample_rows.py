"""Rows drawn for a model, near where it decides: a forest is not tried by rows that all take one path."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from inferlane.contracts.wire.tensors import Signature, numpy_dtype
from models.adding.graph_surgery import attributes_of

_ROWS = 256
_SEED = 20_261
# Of an axis that is free.
_FREE_LENGTH = 8
_SHARE_OF_NAN, _SHARE_OF_ZEROS = 0.1, 0.05


def draw_rows(
    model: onnx.ModelProto, signature: Signature, *, texts: Mapping[str, Sequence[str]], with_nan: bool
) -> dict[str, np.ndarray]:
    """Return `(256, …)` for each input of a model: near the thresholds of its trees, or as its scaler expects them.

    `texts` are what inputs of text are drawn from.
    """
    random = np.random.default_rng(_SEED)
    rows: dict[str, np.ndarray] = {}
    for spec in signature.inputs:
        shape = (_ROWS, *(_FREE_LENGTH if axis == -1 else axis for axis in spec.row_shape))
        dtype = numpy_dtype(spec.datatype)
        if dtype.kind == "T":
            rows[spec.name] = random.choice(np.array(texts.get(spec.name) or ["text"]), shape).astype(dtype)
            continue
        if dtype.kind != "f":
            rows[spec.name] = random.integers(0, 2, shape).astype(dtype)
            continue
        values = random.standard_normal(shape) * random.choice([0.1, 1.0, 10.0], (_ROWS, *(1 for _ in spec.row_shape)))
        for node in model.graph.node:
            if spec.name in node.input and len(spec.row_shape) == 1:
                _shift(values, node, random)
        if with_nan:
            # Zero may be missing, too.
            values[random.random(shape) < _SHARE_OF_ZEROS] = 0
            values[random.random(shape) < _SHARE_OF_NAN] = np.nan
        rows[spec.name] = values.astype(dtype)
    return rows


def _shift(values: np.ndarray, node: onnx.NodeProto, random: np.random.Generator) -> None:
    attributes = attributes_of(node)
    if node.op_type == "Scaler" and len(attributes.get("scale", ())) in {1, values.shape[1]}:
        values /= np.array(attributes["scale"])
        values += np.array(attributes["offset"])
    elif node.op_type.startswith("TreeEnsemble") and "nodes_featureids" in attributes:
        for feature, thresholds in _thresholds(attributes).items():
            spread = max(float(np.ptp(thresholds)), 0.1 * abs(float(thresholds.mean())), 1e-3)
            values[:, feature] = random.choice(thresholds, len(values)) + spread * 0.3 * random.standard_normal(_ROWS)


def _thresholds(attributes: Mapping[str, Any]) -> dict[int, np.ndarray]:
    features, values = np.array(attributes["nodes_featureids"]), np.array(attributes["nodes_values"])
    # A split of missing values from all others has none that is finite.
    inner = np.array([mode != b"LEAF" for mode in attributes["nodes_modes"]]) & np.isfinite(values)
    return {int(feature): values[inner & (features == feature)] for feature in np.unique(features[inner])}

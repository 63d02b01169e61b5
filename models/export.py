"""scikit-learn to ONNX, in the form that the workers serve."""

from typing import Any

import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

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

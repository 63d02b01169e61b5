"""float32 to int8.

Static quantization: the scale of each activation is fixed once, on calibration rows. Dynamic quantization takes it
from the batch at hand, so the answer to a row depends on the rows beside it; a server that batches strangers
together cannot have that. The measurement is in docs/models.md.
"""

import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.export import INPUT

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
        source: a float32 ONNX file with one input, named as `models.export` names it.
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

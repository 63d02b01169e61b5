"""The ways to make a float32 model int8: what each fits, and how it is done with onnxruntime's quantizer."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Batch = Mapping[str, np.ndarray]


class Approach(StrEnum):
    """Where the scales of activations come from: the rows of a run, or calibration rows."""

    DYNAMIC = "dynamic"
    STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to quantize; `per_channel` gives each output channel of a weight a scale of its own."""

    approach: Approach
    per_channel: bool = False

    @property
    def name(self) -> str:
        """What `version.toml` calls it."""
        return f"int8-{self.approach}{'-per-channel' if self.per_channel else ''}"


STATIC = Method(approach=Approach.STATIC)
METHODS = (STATIC, Method(approach=Approach.STATIC, per_channel=True), Method(approach=Approach.DYNAMIC))

# Operators on weights, where int8 saves time and memory, and those of them that onnxruntime computes in int8 with
# scales that it takes from the rows of a run.
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_DYNAMIC = frozenset({"MatMul", "Gemm", "LSTM", "Attention"})
# What lies between two products stays in int8 with them; scalers, softmax and the like stay in float32.
_STATIC_OPERATORS = (
    *sorted(_PRODUCTS),
    *("Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
)


def fitting_methods(path: Path, approach: Approach | None) -> tuple[Method, ...]:
    """The methods that have something to quantize in the model at `path`; `approach` leaves only its own."""
    operators = operators_of(path)
    fitting = {Approach.STATIC: bool(operators & _PRODUCTS), Approach.DYNAMIC: bool(operators & _DYNAMIC)}
    return tuple(method for method in METHODS if fitting[method.approach] and approach in {None, method.approach})


def operators_of(path: Path) -> frozenset[str]:
    """The operators of a model, without those of inner graphs."""
    return frozenset(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> Batch | None:
        return next(self._batches, None)


def quantize(source: Path, target: Path, method: Method, *, calibration: Sequence[Batch]) -> None:
    """Write the int8 form of the model at `source` to `target`.

    Args:
        source: a float32 ONNX file, with its external data beside it.
        target: where the int8 ONNX file goes; its weights are inside.
        method: how.
        calibration: runs that look like what will be served, for a static method; an activation outside the range
            that they reach is clipped.

    Raises:
        Exception: onnxruntime's quantizer cannot; its errors have no common base.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The quantizer looks for external data in folders of its own, where it is not.
        whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
        onnx.save(onnx.load(source), whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        if method.approach is Approach.DYNAMIC:
            quantize_dynamic(
                prepared, target, weight_type=QuantType.QInt8, op_types_to_quantize=[*sorted(_DYNAMIC), "Gather"]
            )
            return
        # uint8 activations with int8 weights is the pair that VNNI multiplies in one instruction. int8 with int8
        # falls off that path where onnxruntime does not convert it: 30 times slower as QOperator (docs/models.md).
        quantize_static(
            prepared,
            target,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=method.per_channel,
            op_types_to_quantize=list(_STATIC_OPERATORS),
            # onnxruntime 1.32 takes the scales of all channels for one number there, and raises a ValueError.
            extra_options={"QDQDisableWeightAdjustForInt32Bias": method.per_channel},
        )

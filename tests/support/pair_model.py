"""A model of two inputs for tests, in a store."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from models.adding.publication import write_version
from models.store import VersionAbout, write_model

PAIR = Signature(
    inputs=(
        TensorSpec(name="left", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="right", datatype="INT64", shape=(-1,)),
    ),
    outputs=(
        TensorSpec(name="sum", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="same", datatype="INT64", shape=(-1,)),
    ),
)


def write_pair_onnx(path: Path) -> None:
    """A graph: `sum` is `left` with the row's `right` added to each value, `same` is `right`."""
    left = helper.make_tensor_value_info("left", TensorProto.FLOAT, [None, 3])
    right = helper.make_tensor_value_info("right", TensorProto.INT64, [None])
    total = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [None, 3])
    same = helper.make_tensor_value_info("same", TensorProto.INT64, [None])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", ["right"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "axis"], ["column"]),
        helper.make_node("Add", ["left", "column"], ["sum"]),
        helper.make_node("Identity", ["right"], ["same"]),
    ]
    graph = helper.make_graph(nodes, "pair", [left, right], [total, same], [axis])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def write_pair(models_dir: Path) -> None:
    """A model `pair` of that graph."""

    def describe(_: Path) -> VersionAbout:
        return VersionAbout(quantization="none", signature=PAIR, metrics={}, quantized={})

    write_version(models_dir, model="pair", version="v1", write_onnx=write_pair_onnx, describe=describe)
    write_model(models_dir / "pair", description="Pair", default_version="v1", classes=())

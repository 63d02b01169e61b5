"""A store with one tiny ONNX model, written in milliseconds."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from models.adding.publication import write_version
from models.store import VersionAbout, write_model

FEATURES = 3
SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, FEATURES)),),
    outputs=(TensorSpec(name="probabilities", datatype="FP32", shape=(-1, FEATURES)),),
)


def write_tiny_onnx(path: Path, *, operator: str = "Softmax") -> None:
    """A model of one operator from `input (rows, 3) float32` to `probabilities (rows, 3) float32`."""
    input_, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, FEATURES]) for name in ("input", "probabilities")
    )
    node = helper.make_node(operator, ["input"], ["probabilities"])
    graph = helper.make_graph([node], "tiny", [input_], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)


def describe_tiny(_: Path, *, signature: Signature = SIGNATURE) -> VersionAbout:
    """What version.toml says of the tiny model."""
    return VersionAbout(
        quantization="none",
        signature=signature,
        metrics={"held_out_accuracy": 0.75, "cpu": "a CPU"},
        quantized={},
    )


def write_tiny_store(models_dir: Path, *, operator: str = "Softmax", signature: Signature = SIGNATURE) -> Path:
    """A store whose model `tiny` has the version `v1`; returns the path of its model.onnx."""
    write_version(
        models_dir,
        model="tiny",
        version="v1",
        write_onnx=lambda path: write_tiny_onnx(path, operator=operator),
        describe=lambda path: describe_tiny(path, signature=signature),
    )
    write_model(models_dir / "tiny", description="Tiny", default_version="v1", classes=("a", "b", "c"))
    return models_dir / "tiny" / "v1" / "model.onnx"

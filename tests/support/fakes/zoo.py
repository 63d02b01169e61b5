"""Versions that cannot be served, each in one way that exporters and disks produce."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from models.adding.publication import write_version
from models.store import VersionAbout
from tests.support.fakes.stores import FEATURES, SIGNATURE, describe_tiny, write_tiny_onnx

Adding = Callable[[Path, str], None]
_WEIGHTS = np.arange(FEATURES * FEATURES, dtype=np.float32).reshape(FEATURES, FEATURES) / 10


def add_version(models_dir: Path, version: str, write_onnx: Callable[[Path], None], *, model: str = "tiny") -> Path:
    """Add a version to a store, described as the tiny model is; returns its folder."""
    write_version(models_dir, model=model, version=version, write_onnx=write_onnx, describe=_describe)
    return models_dir / model / version


def spoil(models_dir: Path, version: str) -> None:
    """Add the version of `SPOILT` that has this name."""
    SPOILT[version][0](models_dir, version)


def _describe(path: Path) -> VersionAbout:
    return describe_tiny(path, signature=SIGNATURE)


def save(  # noqa: PLR0913 - one for each part of a graph
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    initializers: list[onnx.TensorProto] | None = None,
    batch: int | None = None,
    output: onnx.ValueInfoProto | None = None,
    input_type: int = TensorProto.FLOAT,
    opset: int = 21,
) -> None:
    """Write a model from `input` to `probabilities`, both `(rows, 3)` unless something else is said."""
    shape = [batch, FEATURES]
    given = helper.make_tensor_value_info("input", input_type, shape)
    gives = output or helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "spoilt", [given], [gives], initializers or [])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())


def save_external(path: Path, *, location: str = "w.bin", weights: bytes | None = None) -> None:
    """Write a model whose weights are in another file, which is written beside it unless `weights` is empty."""
    tensor = numpy_helper.from_array(_WEIGHTS, "w")
    external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    held = _WEIGHTS.tobytes() if weights is None else weights
    if held:
        (path.parent / location).write_bytes(held)
    save(path, [helper.make_node("MatMul", ["input", "w"], ["probabilities"])], initializers=[tensor])


def _node(operator: str) -> onnx.NodeProto:
    return helper.make_node(operator, ["input"], ["probabilities"])


def _saved(node: onnx.NodeProto, *, batch: int | None = None, input_type: int = 1, opset: int = 21) -> Adding:
    def add(models_dir: Path, version: str) -> None:
        add_version(
            models_dir, version, lambda path: save(path, [node], batch=batch, input_type=input_type, opset=opset)
        )

    return add


def _corrupt(models_dir: Path, version: str) -> None:
    path = add_version(models_dir, version, write_tiny_onnx) / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _garbage(models_dir: Path, version: str) -> None:
    add_version(models_dir, version, lambda path: path.write_bytes(b"this is no model") and None)


def _deep(models_dir: Path, version: str) -> None:
    """A graph in a node of a graph, and so on: deeper than Python and protobuf follow."""
    graph = b""
    for _ in range(2_000):
        graph = _field(1, _field(5, _field(6, graph)))
    add_version(models_dir, version, lambda path: path.write_bytes(_field(7, graph)) and None)


def _field(number: int, held: bytes) -> bytes:
    length = len(held)
    size = b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + held


def _zipmap(models_dir: Path, version: str) -> None:
    node = helper.make_node(
        "ZipMap", ["input"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=list(range(FEATURES))
    )
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    output = helper.make_value_info("probabilities", helper.make_sequence_type_proto(maps))
    add_version(models_dir, version, lambda path: save(path, [node], output=output))


def _dynamic(models_dir: Path, version: str) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["input"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["probabilities"]),
    ]
    add_version(models_dir, version, lambda path: save(path, nodes))


def _missing(models_dir: Path, version: str) -> None:
    folder = add_version(models_dir, version, save_external)
    (folder / "w.bin").unlink()


def _flipped_weights(models_dir: Path, version: str) -> None:
    path = add_version(models_dir, version, save_external) / "w.bin"
    raw = bytearray(path.read_bytes())
    raw[7] ^= 1
    path.write_bytes(raw)


def _linked(models_dir: Path, version: str) -> None:
    folder = add_version(models_dir, version, save_external)
    target = models_dir / f"weights-of-{version}"
    (folder / "w.bin").rename(target)
    (folder / "w.bin").symlink_to(target)


def _outside(models_dir: Path, version: str) -> None:
    folder = add_version(models_dir, version, save_external)
    save_external(folder / "model.onnx", location="../w.bin")


def _twice_the_rows(models_dir: Path, version: str) -> None:
    node = helper.make_node("Concat", ["input", "input"], ["probabilities"], axis=0)
    add_version(models_dir, version, lambda path: save(path, [node]))


SPOILT: dict[str, tuple[Adding, str]] = {
    "corrupt": (_corrupt, "but version.toml says sha256:"),
    "deep": (_deep, "onnxruntime cannot load it"),
    "empty": (lambda folder, name: add_version(folder, name, lambda path: path.touch()) and None, "onnxruntime cannot"),
    "garbage": (_garbage, "onnxruntime cannot load it"),
    "nan": (_saved(_node("Log")), "finite"),
    "zipmap": (_zipmap, "seq(map(int64,tensor(float)))"),
    "fixed-batch": (_saved(_node("Softmax"), batch=1), "the model has input FP32 [1, 3]"),
    "strings": (_saved(helper.make_node("Cast", ["input"], ["probabilities"], to=1), input_type=8), "input BYTES"),
    "opset": (_saved(_node("Softmax"), opset=99), "onnxruntime cannot load it"),
    "dynamic-int8": (_dynamic, "depends on the rows beside it"),
    "missing-weights": (_missing, "w.bin"),
    "flipped-weights": (_flipped_weights, "but version.toml says sha256:"),
    "linked-weights": (_linked, "is a link"),
    "outside": (_outside, "outside of it"),
    "twice-the-rows": (_twice_the_rows, "has the shape [2, 3] for 1 rows"),
}
"""How to add each, and a part of the reason that it must be refused with."""

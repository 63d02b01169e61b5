"""Small ONNX files of every kind that `inferlane models add` meets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES = 3
Axes = Sequence[int | str | None]


def value(name: str, shape: Axes, elem_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, shape)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 21,
    ir_version: int = 10,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def plain(
    operator: str = "Softmax",
    *,
    shape: Axes = (None, FEATURES),
    elem_type: int = TensorProto.FLOAT,
    domain: str = "",
    **about: Any,
) -> onnx.ModelProto:
    """One operator from `input` to `output`, both of one shape and type."""
    node = helper.make_node(operator, ["input"], ["output"], domain=domain)
    return model_of([node], [value("input", shape, elem_type)], [value("output", shape, elem_type)], **about)


def weighted(path: Path, *, location: str = "weights.bin") -> onnx.ModelProto:
    """A product with weights in a file beside the model, which is written unless it lies elsewhere."""
    weights = numpy_helper.from_array(np.ones((FEATURES, 2), np.float32), "weights")
    content = weights.raw_data
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    if "/" not in location:
        (path.parent / location).write_bytes(content)
    node = helper.make_node("MatMul", ["input", "weights"], ["output"])
    return model_of([node], [value("input", (None, FEATURES))], [value("output", (None, 2))], weights=[weights])


def renamed(name: str) -> onnx.ModelProto:
    """One operator on an input of this name."""
    node = helper.make_node("Relu", [name], ["output"])
    return model_of([node], [value(name, (None, FEATURES))], [value("output", (None, FEATURES))])


def many(outputs: int) -> onnx.ModelProto:
    """So many outputs, all of them the input."""
    names = [f"output{number:06}" for number in range(outputs)]
    nodes = [helper.make_node("Identity", ["input"], [name]) for name in names]
    return model_of(nodes, [value("input", (None, 1))], [value(name, (None, 1)) for name in names])


def reduced() -> onnx.ModelProto:
    """One number for the whole batch, which says that it has rows."""
    node = helper.make_node("ReduceMean", ["input"], ["output"], keepdims=1)
    return model_of([node], [value("input", (None, FEATURES))], [value("output", (None, 1))])


def scalar() -> onnx.ModelProto:
    node = helper.make_node("ReduceMean", ["input"], ["output"], keepdims=0)
    return model_of([node], [value("input", (None, FEATURES))], [value("output", ())])


def sequence() -> onnx.ModelProto:
    node = helper.make_node("SequenceConstruct", ["input"], ["output"])
    output = helper.make_tensor_sequence_value_info("output", TensorProto.FLOAT, [None, FEATURES])
    return model_of([node], [value("input", (None, FEATURES))], [output])


def centred() -> onnx.ModelProto:
    """A row's answer depends on the rows beside it: the mean of the batch is subtracted."""
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["input", "mean"], ["output"]),
    ]
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    return model_of(nodes, [value("input", (None, FEATURES))], [value("output", (None, FEATURES))], weights=[axes])


def endless() -> onnx.ModelProto:
    """A loop that does not end while anybody lives."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["goes_on"]),
            helper.make_node("Identity", ["state"], ["next"]),
        ],
        "body",
        [value("number", (), TensorProto.INT64), value("condition", (), TensorProto.BOOL), value("state", (None, 3))],
        [value("goes_on", (), TensorProto.BOOL), value("next", (None, 3))],
    )
    weights = [
        numpy_helper.from_array(np.array(2**62, np.int64), "times"),
        numpy_helper.from_array(np.array(1, np.bool_), "true"),
    ]
    node = helper.make_node("Loop", ["times", "true", "input"], ["output"], body=body)
    return model_of([node], [value("input", (None, 3))], [value("output", (None, 3))], weights=weights)


def zip_mapped(*, labels: Sequence[str] | Sequence[int]) -> onnx.ModelProto:
    """A linear classifier as scikit-learn's exporter writes it: a label, and a ZipMap of its scores."""
    named = "classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"
    of_node = named if isinstance(labels[0], str) else "classlabels_ints"
    kind = TensorProto.STRING if isinstance(labels[0], str) else TensorProto.INT64
    classifier = helper.make_node(
        "LinearClassifier",
        ["input"],
        ["chosen", "scores"],
        domain="ai.onnx.ml",
        coefficients=np.eye(FEATURES, dtype=np.float32).ravel().tolist(),
        intercepts=[0.1, 0.0, 0.0],
        post_transform="SOFTMAX",
        **{of_node: list(labels)},
    )
    nodes = [
        classifier,
        helper.make_node("Identity", ["chosen"], ["label"]),
        helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **{named: list(labels)}),
    ]
    maps = onnx.ValueInfoProto(
        name="probabilities",
        type=helper.make_sequence_type_proto(
            helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        ),
    )
    return model_of(nodes, [value("input", (None, FEATURES))], [value("label", (None,), kind), maps])

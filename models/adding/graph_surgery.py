"""Changes to a graph so that its outputs are tensors: a trailing ZipMap goes, names of classes become class indices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from inferlane.errors import ConfigurationError, quoted

_ML = "ai.onnx.ml"
# LabelEncoder takes text to numbers since then. Source: onnx, Operators-ml.md.
_LABEL_ENCODER_SINCE = 2
# The default of its `default_string`. Source: as above.
_NO_KEY = b"_Unused"
# What returns the index of one of the classes, or whether it is the second of two.
_CHOICES = frozenset(
    {"ArgMax", "TopK", "ArrayFeatureExtractor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not"}
)
# What hands its first input on with another shape or type, but with the same classes.
_TRANSPARENT = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
# More class names than this in one message or file help nobody.
_MAX_CLASSES = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """What became of a graph: the names of the classes by output, and what was changed, in words.

    `classes` of scores name their columns; those of a label name the values 0, 1, and so on.
    """

    classes: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]
    changes: tuple[str, ...]


def unwrap_outputs(model: onnx.ModelProto) -> Unwrapped:
    """Turn outputs of `model` that are no tensor into tensors, in place.

    A ZipMap at the end is taken away, so that its output holds the scores, `(rows, classes) float32`. Labels that are
    text become the index of their class, `(rows,) int64`; labels that are numbers stay.

    Raises:
        ConfigurationError: an output is no tensor, and no ZipMap makes it.
    """
    graph = model.graph
    classes: dict[str, tuple[str, ...]] = {}
    labels: list[str] = []
    changes: list[str] = []
    for output in graph.output:
        kind = output.type.WhichOneof("value")
        if kind == "tensor_type":
            continue
        node = _producer(graph, output.name)
        if node is None or node.op_type != "ZipMap":
            raise ConfigurationError(
                f"output {quoted(output.name)} is {_KINDS.get(kind, 'no tensor')}, which has no rows that could be "
                "answered one by one, and no ZipMap makes it. Export the model with tensors as outputs."
            )
        classes[output.name] = _remove_zip_map(graph, node, output)
        changes.append(f"ZipMap removed: {output.name} holds the scores of {len(classes[output.name])} classes")
    for output in graph.output:
        if output.type.tensor_type.elem_type == TensorProto.STRING and output.name not in classes:
            names = _classes_of_labels(graph, output.name)
            if names:
                _index_labels(model, output, names)
                classes[output.name] = names
                labels.append(output.name)
                changes.append(f"labels of text became indices of {len(names)} classes: {output.name}")
    return Unwrapped(classes=classes, labels=tuple(labels), changes=tuple(changes))


_KINDS = {
    "sequence_type": "a sequence",
    "map_type": "a map",
    "optional_type": "an optional value",
    "sparse_tensor_type": "a sparse tensor",
}


def _remove_zip_map(graph: onnx.GraphProto, node: onnx.NodeProto, output: onnx.ValueInfoProto) -> tuple[str, ...]:
    if any(output.name in other.input for other in graph.node):
        raise ConfigurationError(
            f"output {quoted(output.name)} is a sequence of maps, and other nodes of the graph read it too. Export the "
            "model with zipmap=False."
        )
    names = _names(attributes_of(node))
    if not names:
        raise ConfigurationError(
            f"output {quoted(output.name)} comes from a ZipMap that names no classes, a class twice, or more than "
            f"{_MAX_CLASSES}. Export the model with zipmap=False."
        )
    node.CopyFrom(helper.make_node("Identity", [node.input[0]], [output.name], name=node.name))
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None, len(names)]))
    return names


def _index_labels(model: onnx.ModelProto, output: onnx.ValueInfoProto, names: tuple[str, ...]) -> None:
    graph = model.graph
    inner = f"{output.name}_of_text"
    for node in graph.node:
        for number, name in enumerate(node.output):
            if name == output.name:
                node.output[number] = inner
        for number, name in enumerate(node.input):
            if name == output.name:
                node.input[number] = inner
    encoder = helper.make_node(
        "LabelEncoder",
        [inner],
        [output.name],
        domain=_ML,
        name=f"{output.name}_index",
        keys_strings=list(names),
        values_int64s=list(range(len(names))),
        default_int64=-1,
    )
    graph.node.append(encoder)
    output.type.tensor_type.elem_type = TensorProto.INT64
    _raise_opset(model)


def _raise_opset(model: onnx.ModelProto) -> None:
    old = [node for node in model.graph.node[:-1] if node.op_type == "LabelEncoder"]
    for opset in model.opset_import:
        if opset.domain == _ML:
            if opset.version < _LABEL_ENCODER_SINCE and old:
                raise ConfigurationError(
                    f"the labels are text, and the graph has a LabelEncoder of {_ML} {opset.version}. Export the model "
                    f"with {_ML} 2 or later."
                )
            opset.version = max(opset.version, _LABEL_ENCODER_SINCE)
            return
    model.opset_import.append(helper.make_opsetid(_ML, _LABEL_ENCODER_SINCE))


def _classes_of_labels(graph: onnx.GraphProto, output: str) -> tuple[str, ...]:
    """The classes that an output of labels gives, in the order of their scores; none if nobody says."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for node, is_first_output in _upwards(graph, output):
        if not is_first_output:
            return ()
        if names := _strings(attributes_of(node)):
            return names if _is_choice(graph, node) else _with_default(node, names)
        if node.op_type == "ArrayFeatureExtractor" and node.input[0] in initializers:
            return _distinct(numpy_helper.to_array(initializers[node.input[0]]).ravel().tolist())
    return ()


def _is_choice(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a node names what was chosen among its keys, so that it never meets another value."""
    makers = [maker.op_type for maker, _ in _upwards(graph, node.input[0])][-1:]
    return any(kind in _CHOICES or kind.endswith("Classifier") for kind in makers)


def _with_default(node: onnx.NodeProto, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, and behind them what a LabelEncoder answers to a value that none of its keys is."""
    if node.op_type != "LabelEncoder":
        return names
    default = attributes_of(node).get("default_string", _NO_KEY).decode()
    return names if default in names else _distinct([*names, default])


def _upwards(graph: onnx.GraphProto, name: str) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """The nodes that a value went through unchanged, then its maker; and whether it is the first output of each."""
    seen: set[str] = set()
    while name not in seen and (node := _producer(graph, name)) is not None:
        seen.add(name)
        yield node, node.output[0] == name
        if node.op_type not in _TRANSPARENT:
            return
        name = node.input[0]


def _producer(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    return next((node for node in graph.node if name in node.output), None)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The values of a node's attributes by their names."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _names(attributes: dict[str, Any]) -> tuple[str, ...]:
    numbers = attributes.get("classlabels_int64s") or attributes.get("classlabels_ints") or []
    return _strings(attributes) or _distinct([str(number) for number in numbers])


def _strings(attributes: dict[str, Any]) -> tuple[str, ...]:
    texts = attributes.get("classlabels_strings") or attributes.get("values_strings") or []
    return _distinct(texts)


def _distinct(values: list[bytes] | list[str]) -> tuple[str, ...]:
    names = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)
    return names if 0 < len(set(names)) == len(names) <= _MAX_CLASSES else ()

"""What the converters of libraries do otherwise than it has to be, mended."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx


def allow_no_zip_map() -> None:
    """Have the converter of LinearSVC take the option that its own parser asks it for."""
    from skl2onnx.common._registration import get_converter  # noqa: PLC0415 - an extra

    get_converter("SklearnLinearSVC").get_allowed_options().setdefault("zipmap", [True, False, "columns"])


def name_inputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the inputs of a graph these names: the converter writes others for those that are no identifiers."""
    new = {value.name: name for value, name in zip(model.graph.input, names, strict=True)}
    for value, name in zip(model.graph.input, names, strict=True):
        value.name = name
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]


def put_rows_first(model: onnx.ModelProto) -> None:
    """Give scores `(labels, rows, classes)` of several labels the shape `(rows, labels, classes)`."""
    for output in model.graph.output:
        if output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            inner = f"{output.name}_by_label"
            for node in model.graph.node:
                node.output[:] = [inner if name == output.name else name for name in node.output]
                node.input[:] = [inner if name == output.name else name for name in node.input]
            model.graph.node.append(onnx.helper.make_node("Transpose", [inner], [output.name], perm=[1, 0, 2]))
            output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, None))


@contextmanager
def whole_numbers() -> Iterator[None]:
    """Have attributes of nodes be numbers: the converter of histogram trees gives booleans, which ONNX refuses."""
    from skl2onnx.common import _container as container  # noqa: PLC0415 - an extra

    make = container.make_node

    def made(*arguments: Any, **attributes: Any) -> onnx.NodeProto:
        node: onnx.NodeProto = make(*arguments, **{name: _as_number(value) for name, value in attributes.items()})
        return node

    container.make_node = made
    try:
        yield
    finally:
        container.make_node = make


def _as_number(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_number(inner) for inner in value]
    return int(value) if isinstance(value, bool | np.bool_ | np.integer) else value

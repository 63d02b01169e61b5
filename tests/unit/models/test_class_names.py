"""Class names belong to an output: no other output is shown with them, and no text of a model is lost."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inferlane.contracts.wire.tensors import TensorSpec
from inferlane.contracts.wire.v1 import encode_predictions
from models.adding.graph_surgery import unwrap_outputs
from models.described_classes import label_classes, label_of, names_of_outputs
from models.model_session import open_session

LABEL = TensorSpec(name="label", datatype="INT64", shape=(-1,))
ITEMS = TensorSpec(name="items", datatype="INT64", shape=(-1,))
SIZES = TensorSpec(name="sizes", datatype="INT64", shape=(-1, 2))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 2))
PAIR, OTHERS = ("no", "yes"), ("small", "big")


@pytest.mark.parametrize(
    ("outputs", "declared", "of_model", "names", "label"),
    [
        pytest.param((LABEL, ITEMS), {"label": PAIR}, (), {"label": PAIR}, "label", id="a-count"),
        pytest.param((ITEMS, LABEL), {}, PAIR, {"label": PAIR}, "label", id="model-toml"),
        pytest.param((ITEMS,), {}, PAIR, {"items": PAIR}, "items", id="one-number"),
        pytest.param((LABEL, ITEMS), {"items": OTHERS}, PAIR, {"items": OTHERS}, "items", id="own-first"),
        pytest.param((SIZES,), {"sizes": OTHERS}, (), {"sizes": OTHERS}, None, id="several-a-row"),
        pytest.param((SIZES,), {}, PAIR, {}, None, id="no-label"),
        pytest.param((LABEL, SCORES), {}, PAIR, {"label": PAIR, "scores": PAIR}, "label", id="scores"),
        pytest.param((LABEL, SCORES), {"scores": PAIR}, (), {"scores": PAIR}, None, id="scores-alone"),
    ],
)
def test_names_are_those_of_the_output(
    outputs: tuple[TensorSpec, ...],
    declared: dict[str, tuple[str, ...]],
    of_model: tuple[str, ...],
    names: dict[str, tuple[str, ...]],
    label: str | None,
) -> None:
    found = names_of_outputs(outputs, declared, label_classes(outputs, declared, of_model))

    assert found == names
    assert label_of(outputs, found) == label


def graph(*nodes: onnx.NodeProto, shape: Sequence[int | str] = ("rows",)) -> onnx.ModelProto:
    names = [name for node in nodes for name in node.output if not name.startswith("_")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.STRING, shape) for name in names]
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, shape)]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(
        helper.make_graph(list(nodes), "labels", inputs, outputs), opset_imports=imports, ir_version=9
    )


def encoder(output: str, values: list[str], **attributes: str) -> onnx.NodeProto:
    keys = list(range(len(values)))
    return helper.make_node(
        "LabelEncoder", ["x"], [output], domain="ai.onnx.ml", keys_int64s=keys, values_strings=values, **attributes
    )


@pytest.mark.parametrize(
    ("nodes", "rows"),
    [
        pytest.param([encoder("y", ["de", "fr"], default_string="other")], [0, 1, 7], id="default"),
        pytest.param([encoder("y", ["de", "fr"])], [0, 1, 7], id="default-of-the-operator"),
        pytest.param([encoder("y", ["de", "fr"], default_string="fr")], [0, 1, 7], id="default-is-a-name"),
        pytest.param(
            [encoder("colour", ["red", "blue"]), encoder("size", ["small", "big"])], [0, 1, 0], id="two-outputs"
        ),
        pytest.param([encoder("y", ["de", "fr"])], [[0, 1], [1, 0]], id="several-a-row"),
        pytest.param([encoder("y", ["de", "fr"])], [[0], [1]], id="one-axis-more"),
    ],
)
def test_indices_of_labels_are_shown_as_the_text_of_the_model(nodes: list[onnx.NodeProto], rows: list) -> None:
    x = np.array(rows, np.int64)
    model = graph(*nodes, shape=("rows", *x.shape[1:]))
    session = open_session(model.SerializeToString())
    wanted = {
        output.name: array.tolist()
        for output, array in zip(session.get_outputs(), session.run(None, {"x": x}), strict=True)
    }

    unwrapped = unwrap_outputs(model)

    assert unwrapped.labels == tuple(wanted)
    changed = open_session(model.SerializeToString())
    found = dict(zip(wanted, changed.run(None, {"x": x}), strict=True))
    assert all(array.dtype == np.int64 for array in found.values())
    shown = encode_predictions(found, unwrapped.classes)
    columns = {name: [row[name] if len(wanted) > 1 else row for row in shown] for name in wanted}
    assert columns == wanted


def test_a_label_that_was_chosen_among_the_classes_has_no_further_one() -> None:
    """Guards `_is_choice`: with one class more than columns, scores lost their names."""
    named = encoder("label", ["de", "fr", "it"], default_string="never")
    named.input[0] = "best"
    model = graph(helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0), named, shape=("rows", 3))
    assert unwrap_outputs(model).classes == {"label": ("de", "fr", "it")}

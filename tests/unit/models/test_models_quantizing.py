"""`inferlane models quantize` on real graphs: what is published, what is refused, and that nothing is left behind."""

import math
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from inferlane.errors import ConfigurationError
from models.adding.addition import Addition, add
from models.catalog import ModelVersion
from models.quantizing.gate import Limits
from models.quantizing.quantization import Quantization, QuantizationReport, Quantized, quantize_version
from models.store_reader import load_catalog
from models.verify import verify_version
from tests.support import graphs
from tests.support.exports import SENTENCES, image_classifier, in_base64, text_classifier
from workers.model import OnnxModel

# Whether a machine gains by int8 is not for a unit test to say.
ANYTHING = Limits(min_speedup=0.0, max_accuracy_drop=1.0)
RANDOM = np.random.default_rng(1)
FEATURES, HIDDEN = 64, 128


def weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.normal(0, 0.2, shape).astype(np.float32), name)


def perceptron(features: int = FEATURES) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["input", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["logits"]),
    ]
    return graphs.model_of(
        nodes,
        [graphs.value("input", (None, features))],
        [graphs.value("logits", (None, 3))],
        weights=[weights("first", features, HIDDEN), weights("second", HIDDEN, 3)],
    )


def convolution() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["scores"]),
    ]
    return graphs.model_of(
        nodes,
        [graphs.value("image", (None, 1, 8, 8))],
        [graphs.value("scores", (None, 4))],
        weights=[weights("kernel", 4, 1, 3, 3)],
    )


def stored(folder: Path, model: onnx.ModelProto, *, external: bool = False) -> Path:
    source = folder / "source" / "model.onnx"
    source.parent.mkdir()
    onnx.save(model, source, save_as_external_data=external, location="weights.bin", size_threshold=0)
    (source.parent / "config.json").write_text("{}")
    addition = Addition(
        source=str(source.parent),
        model="net",
        version=None,
        models_dir=folder / "store",
        check=None,
        tolerance=1e-4,
        timeout_s=120.0,
    )
    add(addition, say=lambda _: None)
    return folder / "store"


def rows_file(folder: Path, shape: tuple[int, ...], *, rows: int = 80, **more: np.ndarray) -> Path:
    path = folder / "rows.npz"
    np.savez(path, input=RANDOM.normal(0, 1, (rows, *shape)).astype(np.float32), **more)
    return path


def quantized(store: Path, data: Path, **options: object) -> Quantized:
    about: dict = {
        "model": "net",
        "version": "v1",
        "models_dir": store,
        "data": data,
        "labels": None,
        "approach": None,
        "limits": ANYTHING,
        "threads": 1,
        "timeout_s": 120.0,
    }
    return quantize_version(Quantization(**(about | options)), say=lambda _: None)


def version_of(store: Path, name: str) -> ModelVersion:
    return load_catalog(store, default_model="net").model().version(name)


@pytest.mark.parametrize("external", [False, True])
def test_the_int8_version_has_all_that_its_source_has(tmp_path: Path, external: bool) -> None:
    store = stored(tmp_path, perceptron(), external=external)
    about = store / "net" / "v1" / "version.toml"
    columns = "".join(f'\n[[columns]]\nname = "c{n}"\n' for n in range(FEATURES))
    about.write_text(about.read_text() + columns + "\n[pre]\nkind = 'table'\n")

    done = quantized(store, rows_file(tmp_path, (FEATURES,)), approach="static")

    assert done.published is not None
    version = version_of(store, "v1-quantized")
    verify_version(version)
    written = tomllib.loads((done.published.folder / "version.toml").read_text())
    assert written["pre"] == {"kind": "table"}
    assert len(version.signature.inputs[0].columns) == FEATURES
    assert (version.quantization, version.quantized["from_version"]) == (written["quantization"], "v1")
    assert version.size_bytes * 2 < version_of(store, "v1").size_bytes
    assert sorted(path.name for path in done.published.folder.iterdir()) == [
        "config.json",
        "model.onnx",
        "report.json",
        "version.toml",
    ]
    report = msgspec.json.decode((done.published.folder / "report.json").read_bytes(), type=QuantizationReport)
    assert [one.measured.method for one in report.judged] == ["int8-static", "int8-static-per-channel"]
    assert set(report.measurement.source.latency_us) == {"1", "8", "64", "256"}
    assert report.measurement.forms[0].agreement > 0.8


def test_a_form_that_does_not_pay_is_not_published(tmp_path: Path) -> None:
    store = stored(tmp_path, convolution())

    done = quantized(store, rows_file(tmp_path, (1, 8, 8)), limits=Limits(min_speedup=1000.0, max_accuracy_drop=1.0))

    assert done.published is None
    assert {one.measured.method for one in done.report.judged} == {"int8-static", "int8-static-per-channel"}
    assert all("--min-speedup is 1000" in one.reasons[0] for one in done.report.judged)
    assert [path.name for path in store.iterdir()] == ["net"]
    assert not (store / "net" / "v1-quantized").exists()


def test_answers_that_depend_on_other_rows_are_found_out_and_rows_then_run_alone(tmp_path: Path) -> None:
    store = stored(tmp_path, perceptron())

    done = quantized(store, rows_file(tmp_path, (FEATURES,)), approach="dynamic")

    assert [one.measured.rows_alone for one in done.report.judged] == [True]
    version = version_of(store, "v1-quantized")
    assert version.rows_alone
    model = OnnxModel(version, intra_op_num_threads=1)
    # A row of large values beside the others: with one scale for all of them their digits would be lost.
    rows = np.concatenate([np.full((1, FEATURES), 100.0), RANDOM.normal(0, 1, (7, FEATURES))]).astype(np.float32)
    together = model.run({"input": rows})["logits"]
    alone = np.concatenate([model.run({"input": row[np.newaxis]})["logits"] for row in rows])
    np.testing.assert_array_equal(together, alone)
    about = version.path.parent / "version.toml"
    about.write_text(about.read_text().replace("rows_alone = true\n", ""))
    with pytest.raises(ConfigurationError, match="depends on the rows beside it"):
        verify_version(version_of(store, "v1-quantized"))


def test_known_answers_make_an_accuracy(tmp_path: Path) -> None:
    store = stored(tmp_path, perceptron())
    rows = rows_file(tmp_path, (FEATURES,))
    inputs = np.load(rows)["input"]
    right = OnnxModel(version_of(store, "v1"), intra_op_num_threads=1).run({"input": inputs})["logits"].argmax(axis=1)
    np.savez(rows, input=inputs, truth=right)

    report = quantized(store, rows, labels="truth", approach="static").report

    assert report.measurement.source.accuracy == 1.0
    assert (report.measurement.calibration_rows, report.measurement.held_out_rows) == (40, 40)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"labels": "truth"}, "there are no labels 'truth' in it"),
        ({"model": "net", "version": "v1", "target": "v1"}, "is in the store already"),
        ({"data": Path("nowhere.npz")}, "there is no file 'nowhere.npz'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(tmp_path: Path, options: dict, reason: str) -> None:
    store = stored(tmp_path, perceptron())

    with pytest.raises(ConfigurationError, match=reason):
        quantized(store, **({"data": rows_file(tmp_path, (FEATURES,))} | options))


def labelled() -> onnx.ModelProto:
    """A perceptron whose only output is the index of a class, which nothing names."""
    model = perceptron()
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("label", onnx.TensorProto.INT64, [None]))
    return model


@pytest.mark.parametrize(
    ("model", "truth", "reason"),
    [
        (perceptron, [0.0] * 79 + [3.0], r"the label of row 80 is 3.0; give the index of a class, from 0 to 2"),
        (perceptron, [0] * 79 + [-1], r"the label of row 80 is -1; give the index of a class"),
        (perceptron, [1.0, math.nan] * 40, r"the label of row 2 is nan; give the index of a class"),
        (perceptron, [1.0, 0.5] * 40, r"the label of row 2 is 0.5; give the index of a class"),
        (labelled, [math.nan] * 80, r"the label of row 1 is nan; give a class"),
        (labelled, [100, 101] * 40, r"no label is an answer of the model by 'label': the labels are '100, 101'"),
    ],
)
def test_labels_that_the_model_cannot_answer_are_refused(
    tmp_path: Path, model: Callable[[], onnx.ModelProto], truth: list[float], reason: str
) -> None:
    store = stored(tmp_path, model())

    with pytest.raises(ConfigurationError, match=reason):
        quantized(store, rows_file(tmp_path, (FEATURES,), truth=np.array(truth)), labels="truth", approach="dynamic")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_rows_that_the_model_refuses_are_no_rows_to_quantize_with(tmp_path: Path, number: float) -> None:
    store = stored(tmp_path, perceptron())
    rows = np.zeros((80, FEATURES), np.float32)
    rows[4, 2] = number
    np.savez(tmp_path / "odd.npz", input=rows)

    with pytest.raises(ConfigurationError, match=f"value 3 of row 5 of the input 'input' is {number}, and the model"):
        quantized(store, tmp_path / "odd.npz")


def test_few_rows_are_refused(tmp_path: Path) -> None:
    store = stored(tmp_path, perceptron())

    with pytest.raises(ConfigurationError, match="has 10 rows; half of them calibrate"):
        quantized(store, rows_file(tmp_path, (FEATURES,), rows=10))


def test_a_graph_without_products_is_refused(tmp_path: Path) -> None:
    store = stored(tmp_path, graphs.plain())

    with pytest.raises(ConfigurationError, match=r"nothing that int8 could make faster.*its operators are Softmax"):
        quantized(store, rows_file(tmp_path, (3,)))


def test_a_model_whose_rows_depend_on_each_other_is_added_to_run_them_alone(tmp_path: Path) -> None:
    (tmp_path / "centred.onnx").write_bytes(graphs.centred().SerializeToString())
    about: dict = {
        "source": str(tmp_path / "centred.onnx"),
        "model": "net",
        "version": None,
        "models_dir": tmp_path / "store",
        "check": None,
        "tolerance": 1e-4,
        "timeout_s": 120.0,
    }
    with pytest.raises(ConfigurationError, match="--rows-alone"):
        add(Addition(**about), say=lambda _: None)

    add(Addition(**about, rows_alone=True), say=lambda _: None)

    version = version_of(tmp_path / "store", "v1")
    verify_version(version)
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(
        OnnxModel(version, intra_op_num_threads=1).run({"input": rows})["output"], np.zeros((2, 3))
    )


def test_a_version_with_steps_is_quantized_by_rows_as_clients_send_them(tmp_path: Path) -> None:
    export = image_classifier(tmp_path / "digits", rows=80)
    addition = Addition(
        source=str(export.path),
        model="net",
        version=None,
        models_dir=tmp_path / "store",
        check=None,
        tolerance=1e-4,
        timeout_s=240.0,
        steps=export.steps,
    )
    add(addition, say=lambda _: None)
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(["image", *map(in_base64, export.images)]))

    done = quantized(tmp_path / "store", rows, approach="static")

    assert done.published is not None
    version = version_of(tmp_path / "store", "v1-quantized")
    verify_version(version)
    files = np.empty((len(export.images), 1), object)
    files[:, 0] = export.images
    labels = OnnxModel(version, intra_op_num_threads=1).run({"image": files})["label"]
    assert (labels == export.classifier.predict(export.pixels)).mean() > 0.9


def test_the_tokenizer_of_a_version_goes_with_its_int8_form(tmp_path: Path) -> None:
    export = text_classifier(tmp_path / "reviews", dense=True)
    addition = Addition(
        source=str(export.folder),
        model="net",
        version=None,
        models_dir=tmp_path / "store",
        check=None,
        tolerance=1e-4,
        timeout_s=240.0,
    )
    add(addition, say=lambda _: None)
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(["text", *(f'"{sentence}"' for sentence in SENTENCES * 6)]))

    done = quantized(tmp_path / "store", rows, approach="static")

    assert done.published is not None
    version = version_of(tmp_path / "store", "v1-quantized")
    verify_version(version)
    assert set(version.files) == {"tokenizer.json", "config.json"}

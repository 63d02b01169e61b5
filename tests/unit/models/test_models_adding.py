"""`inferlane models add`: what is good is served as it answers, what is bad ends in one sentence and leaves nothing."""

import threading
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError, InferlaneError, InvalidNameError
from models.adding.addition import Added, Addition, Report, add
from models.adding.graph_notes import parsed_notes
from models.catalog import ModelVersion
from models.store_reader import load_catalog
from models.verify import verify_version
from tests.support import graphs
from workers.model import OnnxModel


def added(models_dir: Path, source: Path, **options: object) -> Added:
    about: dict = {
        "source": str(source),
        "model": "fraud",
        "version": None,
        "models_dir": models_dir,
        "check": None,
        "tolerance": 1e-4,
        "timeout_s": 120.0,
    }
    return add(Addition(**(about | options)), say=lambda _: None)


def stored(models_dir: Path, version: str = "v1") -> ModelVersion:
    return load_catalog(models_dir, default_model="fraud").model().version(version)


def answers(version: ModelVersion, rows: np.ndarray) -> dict[str, np.ndarray]:
    return OnnxModel(version, intra_op_num_threads=1).run({version.signature.inputs[0].name: rows})


def saved(model: onnx.ModelProto, folder: Path, name: str = "export.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def test_an_added_file_is_the_default_version_of_a_new_model_and_verifies(tmp_path: Path) -> None:
    source = saved(graphs.plain(), tmp_path)

    report = added(tmp_path / "store", source, description="Is it fraud").report

    version = stored(tmp_path / "store")
    verify_version(version)
    model = load_catalog(tmp_path / "store", default_model="fraud").model()
    assert (model.description, model.default_version) == ("Is it fraud", "v1")
    assert version.path.read_bytes() == source.read_bytes()
    assert (version.digest, version.size_bytes) == (report.digest, source.stat().st_size)
    assert version.metrics.keys() == {"batch1_latency_us", "batch64_latency_us"}
    assert msgspec.json.decode((version.path.parent / "report.json").read_bytes(), type=Report) == report
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["fraud"]


def test_versions_count_up_and_the_default_stays(tmp_path: Path) -> None:
    source = saved(graphs.plain(), tmp_path)
    names = [
        added(tmp_path / "store", source, version=name).published.version for name in (None, None, "v7-best", None)
    ]

    assert names == ["v1", "v2", "v7-best", "v8"]
    assert load_catalog(tmp_path / "store", default_model="fraud").model().default_version == "v1"


def test_weights_beside_the_model_are_part_of_digest_and_size(tmp_path: Path) -> None:
    source = saved(graphs.weighted(tmp_path / "export.onnx"), tmp_path)

    added(tmp_path / "store", source)

    version = stored(tmp_path / "store")
    verify_version(version)
    assert version.size_bytes == source.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    (version.path.parent / "weights.bin").write_bytes(bytes(24))
    with pytest.raises(ConfigurationError, match=r"but version\.toml says"):
        verify_version(version)


def test_a_folder_gives_its_model_and_what_goes_with_it(tmp_path: Path) -> None:
    export = tmp_path / "export"
    (export / "onnx").mkdir(parents=True)
    saved(graphs.plain(), export / "onnx", "model.onnx")
    saved(graphs.plain(), export / "onnx", "model_quantized.onnx")
    (export / "config.json").write_text("{}")
    (export / "README.md").write_text("not needed")

    folder = added(tmp_path / "store", export).published.folder

    assert {path.name for path in folder.iterdir()} == {"model.onnx", "config.json", "version.toml", "report.json"}


@pytest.mark.parametrize(
    ("labels", "kept"), [(["stays", "leaves", "waits"], ("stays", "leaves", "waits")), ([3, 5, 9], ())]
)
def test_a_zip_map_goes_and_the_names_of_the_classes_stay(tmp_path: Path, labels: list, kept: tuple[str, ...]) -> None:
    added(tmp_path / "store", saved(graphs.zip_mapped(labels=labels), tmp_path))

    version = stored(tmp_path / "store")
    found = answers(version, np.eye(3, dtype=np.float32) * 5)
    assert version.classes == kept
    assert found["label"].tolist() == ([0, 1, 2] if kept else labels)
    assert found["probabilities"].shape == (3, 3)
    assert found["probabilities"].argmax(axis=1).tolist() == [0, 1, 2]
    about = tomllib.loads((version.path.parent / "version.toml").read_text())
    assert list(map(str, labels)) in [output.get("classes") for output in about["outputs"]]


def without(field: str) -> onnx.ModelProto:
    model = graphs.plain()
    model.graph.ClearField(field)
    return model


def broken(folder: Path) -> Path:
    path = saved(graphs.plain(), folder)
    path.write_bytes(path.read_bytes()[:-7])
    return path


def text(folder: Path) -> Path:
    path = folder / "export.onnx"
    path.write_text("<html>404 Not Found</html>")
    return path


def missing_weights(folder: Path) -> Path:
    path = saved(graphs.weighted(folder / "export.onnx"), folder)
    (folder / "weights.bin").unlink()
    return path


def linked_weights(folder: Path) -> Path:
    path = saved(graphs.weighted(folder / "export.onnx"), folder)
    (folder / "weights.bin").rename(folder / "elsewhere")
    (folder / "weights.bin").symlink_to("elsewhere")
    return path


def several(folder: Path) -> Path:
    saved(graphs.plain(), folder, "one.onnx")
    saved(graphs.plain(), folder, "two.onnx")
    return folder


BAD: list[tuple[str, Callable[[Path], Path], str]] = [
    ("no-file", lambda folder: folder / "nowhere.onnx", "there is no file or folder"),
    ("remote", lambda _: Path("s3://bucket/model.onnx"), "cannot be fetched: Generic URL error"),
    ("unknown-name", lambda folder: saved(graphs.plain(), folder, "model.h5"), "called as no model that is known"),
    ("empty-folder", lambda folder: folder, "there is no .onnx file in it"),
    ("several", several, "holds several models: one.onnx, two.onnx"),
    ("truncated", broken, "is no ONNX model"),
    ("text", text, "is no ONNX model"),
    ("empty-graph", lambda folder: saved(onnx.ModelProto(ir_version=10), folder), "is no ONNX model .it has no graph"),
    ("no-output", lambda folder: saved(without("output"), folder), "has no output: it answers nothing"),
    ("no-node", lambda folder: saved(without("node"), folder), "has no node: it computes nothing"),
    ("ir-version", lambda folder: saved(graphs.plain(ir_version=99), folder), "Export it with an older IR version"),
    ("opset", lambda folder: saved(graphs.plain(opset=99), folder), "Export it with an older opset"),
    ("custom", lambda folder: saved(graphs.plain("Magic", domain="acme"), folder), "custom operators.*acme:Magic"),
    ("missing-weights", missing_weights, "cannot read .*weights.bin"),
    ("outside", lambda folder: saved(graphs.weighted(folder, location="../w.bin"), folder), "outside of it"),
    ("linked-weights", linked_weights, "is a link.*cp -rL"),
    ("no-batch", lambda folder: saved(graphs.plain("Relu", shape=()), folder), "is a single value and has no rows"),
    ("scalar", lambda folder: saved(graphs.scalar(), folder), "output .output. is a single value and has no rows"),
    ("no-rows", lambda folder: saved(graphs.reduced(), folder), r"output 'output' has the shape \[1, 1\] for 256 rows"),
    ("sequence", lambda folder: saved(graphs.sequence(), folder), "is a sequence.*no ZipMap"),
    (
        "datatype",
        lambda folder: saved(graphs.plain("Identity", elem_type=TensorProto.BFLOAT16), folder),
        "input 'input': datatype 'BFLOAT16' is n",
    ),
    ("not-finite", lambda folder: saved(graphs.plain("Log"), folder), "must be finite"),
    *(
        (
            f"reserved-{name}",
            lambda folder, name=name: saved(graphs.weighted(folder / "x", location=name), folder),
            said,
        )
        for name, said in (
            ("version.toml", "has a file of its own of that name"),
            ("REPORT.json", "has a file of its own of that name"),
            ("w\n.bin", "it cannot be printed"),
        )
    ),
    ("name", lambda folder: saved(graphs.renamed("a\0b"), folder), "characters in its name that cannot be printed"),
    ("one-axis", lambda folder: saved(graphs.plain(shape=("n", "n")), folder), "an axis within a row is as long as"),
    ("many-outputs", lambda folder: saved(graphs.many(4_500), folder), "no service could read.*262144 bytes"),
    ("neighbours", lambda folder: saved(graphs.centred(), folder), "depends on the rows beside it"),
]


@pytest.mark.parametrize(("make", "sentence"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_bad_source_ends_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, make: Callable[[Path], Path], sentence: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()

    with pytest.raises(ConfigurationError, match=sentence) as caught:
        added(tmp_path / "store", make(home))

    assert ".adding-" not in str(caught.value)
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("name", "version"), [("fraud.eu", None), ("router", None), ("x" * 64, None), ("", None), ("fraud", "v 1")]
)
def test_a_name_that_no_topic_can_have_is_refused_first(tmp_path: Path, name: str, version: str | None) -> None:
    with pytest.raises(InvalidNameError, match="Rename it"):
        added(tmp_path / "store", tmp_path / "nowhere.onnx", model=name, version=version)


@pytest.mark.parametrize(
    ("model", "version", "sentence"),
    [
        ("fraud", "v1", "versions are never changed. Give it another name, such as v2"),
        ("Fraud", "v1", "could not be told from fraud v1"),
        ("fraud", "V1", "could not be told from fraud v1"),
    ],
)
def test_a_version_that_is_there_is_never_changed(tmp_path: Path, model: str, version: str, sentence: str) -> None:
    source = saved(graphs.plain(), tmp_path)
    added(tmp_path / "store", source)

    with pytest.raises(InferlaneError, match=sentence):
        added(tmp_path / "store", saved(graphs.plain("Sigmoid"), tmp_path), model=model, version=version)

    assert stored(tmp_path / "store").path.read_bytes() == saved(graphs.plain(), tmp_path).read_bytes()


def test_a_model_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"took longer than 2 s.*--timeout"):
        added(tmp_path / "store", saved(graphs.endless(), tmp_path), timeout_s=2.0)


def test_a_model_that_kills_its_process_is_refused(tmp_path: Path) -> None:
    me, killed = psutil.Process(), threading.Event()

    def kill_the_child() -> None:
        while not killed.is_set():
            for child in me.children():
                if "models.adding.checking" in child.cmdline():
                    child.kill()
                    killed.set()

    killer = threading.Thread(target=kill_the_child)
    killer.start()
    try:
        with pytest.raises(ConfigurationError, match=r"the model ended the process that ran it \(SIGKILL"):
            added(tmp_path / "store", saved(graphs.endless(), tmp_path), timeout_s=60.0)
    finally:
        killed.set()
        killer.join()


ROWS = np.array([[1, 2, 3], [0, 0, 9], [5, 1, 1]], np.float32)


def softmax(rows: np.ndarray) -> np.ndarray:
    powers = np.exp(rows.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def as_npz(path: Path, rows: np.ndarray, wanted: np.ndarray) -> Path:
    np.savez(path.with_suffix(".npz"), input=rows, output=wanted)
    return path.with_suffix(".npz")


def as_csv(path: Path, rows: np.ndarray, wanted: np.ndarray) -> Path:
    lines = [",".join(map(repr, [*map(float, row), *map(float, out)])) for row, out in zip(rows, wanted, strict=True)]
    path.with_suffix(".csv").write_text("\n".join(["a,b,c,output.0,output.1,output.2", *lines]))
    return path.with_suffix(".csv")


@pytest.mark.parametrize("write", [as_npz, as_csv])
def test_rows_with_expected_answers_decide(tmp_path: Path, write: Callable[..., Path]) -> None:
    source = saved(graphs.plain(), tmp_path)

    report = added(tmp_path / "store", source, check=write(tmp_path / "good", ROWS, softmax(ROWS))).report

    assert report.checked.comparison is not None
    assert (report.checked.comparison.rows, report.checked.comparison.outputs) == (3, ("output",))
    assert report.checked.comparison.largest_difference < 1e-6
    wrong = softmax(ROWS)
    wrong[1, 2] -= 0.01
    check = write(tmp_path / "bad", ROWS, wrong)
    with pytest.raises(ConfigurationError, match=r"in 1 of 3 rows; row 1: .*The largest difference is 0\.01"):
        added(tmp_path / "store", source, check=check)
    assert added(tmp_path / "store", source, check=check, tolerance=0.02).published.version == "v2"


def test_labels_of_text_are_compared_by_name(tmp_path: Path) -> None:
    source = saved(graphs.zip_mapped(labels=["low", "mid", "high"]), tmp_path)
    check = tmp_path / "rows.csv"
    check.write_text("a,b,c,label\n9,0,0,low\n0,9,0,mid\n0,0,9,high\n")
    assert added(tmp_path / "store", source, check=check).published.version == "v1"

    check.write_text("a,b,c,label\n9,0,0,low\n0,9,0,high\n0,0,9,high\n")
    with pytest.raises(
        ConfigurationError, match="label differs from what is expected in 1 of 3 rows; row 1: 1 instead of 2"
    ):
        added(tmp_path / "store", source, check=check)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.txt", "a", "no file of rows that is known"),
        ("rows.csv", "a,b\n1,2\n", r"rows of the shape \[2\].*wants \[3\]"),
        ("rows.csv", "a,b,c\n", "no row below a header"),
        ("rows.csv", "a,b,c\n1,2\n", "line 2 has 2 values, and the header 3"),
        ("rows.csv", "a,b,c\n1,2,x\n", "input wants FP32"),
        ("rows.npz", "no zip", "cannot be read"),
        ("rows.parquet", "no parquet", "cannot be read|pyarrow"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(ConfigurationError, match=sentence):
        added(tmp_path / "store", saved(graphs.plain(), tmp_path), check=tmp_path / name)


FREE = TensorSpec(name="x", datatype="FP16", shape=(-1, -1))


@pytest.mark.parametrize(
    ("value", "spec", "reason"),
    [
        ("abc", FREE, "the input is FP16; give a finite number in the range of FP16"),
        ("nan", FREE, "give a finite number"),
        ("1e999", FREE, "give a finite number"),
        ("70000", FREE, "give a finite number"),
        ("0.5", replace(FREE, datatype="INT8"), "the input is INT8; give a whole number from -128 to 127"),
        ("inf", replace(FREE, datatype="INT8"), "give a whole number from -128 to 127"),
        ("-1", replace(FREE, datatype="UINT8"), "give a whole number from 0 to 255"),
        ("2", replace(FREE, datatype="BOOL"), "give a whole number from 0 to 1"),
        ("0", replace(FREE, shape=(-1, 4)), r"the rows of this input have one length, \[4\], and are never filled up"),
    ],
)
def test_a_fill_that_the_input_cannot_have_is_refused(value: str, spec: TensorSpec, reason: str) -> None:
    notes = parsed_notes(has_row_axis=True, pads=[f"x={value}"])
    with pytest.raises(ConfigurationError, match=f"--pad 'x={value}': .*{reason}"):
        notes.noted(Signature(inputs=(spec,), outputs=()))


@pytest.mark.parametrize(
    ("value", "datatype", "pad"), [("5", "INT64", 5), ("-0.5", "FP32", -0.5), ("5", "BYTES", "5"), ("1", "BOOL", 1)]
)
def test_a_fill_is_of_the_kind_of_its_input(value: str, datatype: str, pad: object) -> None:
    notes = parsed_notes(has_row_axis=True, pads=[f"x={value}"])
    (spec,) = notes.noted(Signature(inputs=(replace(FREE, datatype=datatype),), outputs=())).inputs
    assert (spec.pad, type(spec.pad)) == (pad, type(pad))

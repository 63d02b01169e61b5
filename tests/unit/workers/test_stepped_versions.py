"""Versions with steps in a worker: loaded, verified, run in batches, and a bad row fails its own request alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.catalog_entry import decode_entry, encode_entry
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import default_headers
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.errors import ConfigurationError, RowsRefusedError
from models.artifact import read_artifact
from models.catalog import ModelVersion
from models.catalog_entries import entry_of_store, version_of_entry
from models.store import dump_toml
from models.store_reader import load_model
from tests.support.exports import (
    IMAGE_STEPS,
    SENTENCES,
    WIDTH,
    ImageExport,
    TextExport,
    embedding_model,
    image_classifier,
    text_classifier,
)
from tests.support.fakes.records import FakeRecord
from workers.batching import InferredRequest, join, pieces_of, run_batch
from workers.model import OnnxModel
from workers.model_check import load_verified
from workers.requests import Request

TOKEN_INPUTS = [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ("input_ids", "attention_mask")]


def version_of(
    folder: Path, steps: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], files: tuple[str, ...] = ()
) -> ModelVersion:
    """A version of a store, whose version.toml is written by hand."""
    artifact = read_artifact(folder / "model.onnx", files)
    values = {
        "digest": artifact.digest,
        "size_bytes": artifact.size_bytes,
        "quantization": "none",
        "files": list(files),
    }
    text = dump_toml(values, lists={"inputs": inputs, "outputs": outputs}) + steps
    (folder / "version.toml").write_text(text)
    (folder.parent / "model.toml").write_text(f'default_version = "{folder.name}"\n')
    return load_model(folder.parent).version(folder.name)


CLASSIFIER_STEPS = """
[[before]]
kind = "tokenizer"
max_length = 64

[[after]]
kind = "softmax"

[[after]]
kind = "argmax"
labels = ["negative", "positive"]
"""
EMBEDDING_STEPS = """
[[before]]
kind = "tokenizer"
count = true

[[after]]
kind = "mean-pool"

[[after]]
kind = "normalize"
"""


def classifier(tmp_path: Path) -> tuple[TextExport, ModelVersion]:
    export = text_classifier(tmp_path / "reviews" / "v1")
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}]
    return export, version_of(export.folder, CLASSIFIER_STEPS, TOKEN_INPUTS, outputs, ("tokenizer.json", "config.json"))


def embedder(tmp_path: Path) -> tuple[TextExport, ModelVersion]:
    export = embedding_model(tmp_path / "sentences" / "v1")
    outputs = [{"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, -1, WIDTH]}]
    return export, version_of(export.folder, EMBEDDING_STEPS, TOKEN_INPUTS, outputs, ("tokenizer.json",))


def digits(tmp_path: Path) -> tuple[ImageExport, ModelVersion]:
    export = image_classifier(tmp_path / "digits" / "v1")
    inputs = [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    return export, version_of(export.path.parent, IMAGE_STEPS, inputs, outputs)


def texts(*values: str) -> dict[str, np.ndarray]:
    return {"text": np.array([[value] for value in values], np.dtypes.StringDType())}


def images(*values: bytes) -> dict[str, np.ndarray]:
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return {"image": array}


def request(tensors: dict[str, np.ndarray]) -> Request:
    record = FakeRecord()
    rows = len(next(iter(tensors.values())))
    return Request(
        record=record,
        headers=default_headers(record),
        lane=Lane.REQUESTS,
        tensors=tensors,
        rows=rows,
        form=ALL_AS_BYTES,
    )


def test_a_text_classifier_answers_text_as_its_library_does(tmp_path: Path) -> None:
    export, version = classifier(tmp_path)
    model = load_verified(version, intra_op_num_threads=1, rows=8)

    given = model.run(texts(*SENTENCES))

    expected = export.scores(SENTENCES)
    np.testing.assert_allclose(given["probabilities"], expected, rtol=1e-4, atol=1e-5)
    assert given["label"].tolist() == expected.argmax(axis=1).tolist()
    assert version.classes == ("negative", "positive")


def test_an_embedding_model_answers_text_as_sentence_transformers_does(tmp_path: Path) -> None:
    export, version = embedder(tmp_path)
    model = load_verified(version, intra_op_num_threads=1, rows=8)
    mixed = (*SENTENCES, SENTENCES[0] * 6, "good")

    given = model.run(texts(*mixed))

    np.testing.assert_allclose(given["embedding"], export.embeddings(mixed), rtol=1e-4, atol=1e-5)
    assert given["tokens"].tolist() == [len(export.ids(text)) for text in mixed]


def test_an_image_classifier_answers_files_as_scikit_learn_does(tmp_path: Path) -> None:
    export, version = digits(tmp_path)
    model = load_verified(version, intra_op_num_threads=1, rows=8)

    given = model.run(images(*export.images))

    expected = export.classifier.predict_proba(export.pixels)
    np.testing.assert_allclose(given["probabilities"], expected, rtol=1e-3, atol=1e-4)
    assert given["label"].tolist() == export.classifier.predict(export.pixels).tolist()
    assert given["top_labels"][:, 0].tolist() == [str(label) for label in given["label"]]


def test_an_undecodable_image_fails_its_own_request_alone(tmp_path: Path) -> None:
    export, version = digits(tmp_path)
    model = OnnxModel(version, intra_op_num_threads=1)
    good = export.images
    requests = [
        request(images(good[0])),
        request(images(good[1], b"no image", good[2])),
        request(images(good[3])),
        request(images(b"")),
    ]

    inferred = run_batch(model.run, requests)

    assert [one.request for one in inferred] == requests
    assert [one.outputs is not None for one in inferred] == [True, False, True, False]
    assert isinstance(inferred[1].error, RowsRefusedError)
    assert str(inferred[1].error).startswith("row 1: input 'image': the file cannot be read")
    assert str(inferred[3].error).startswith("row 0: ")
    expected = export.classifier.predict(export.pixels[[0, 3]])
    assert [one.outputs["label"][0] for one in inferred if one.outputs] == expected.tolist()


def test_a_bad_image_of_a_large_request_is_named_by_its_row_of_the_request(tmp_path: Path) -> None:
    export, version = digits(tmp_path)
    model = OnnxModel(version, intra_op_num_threads=1)
    whole = request(images(*export.images[:5], b"no image"))

    pieces: list[InferredRequest] = []
    for piece in pieces_of(whole, 2):
        pieces += run_batch(model.run, [piece])

    assert str(join(whole, pieces).error).startswith("row 5: ")


def test_digest_and_size_cover_the_tokenizer(tmp_path: Path) -> None:
    export, version = classifier(tmp_path)
    names = ("model.onnx", "tokenizer.json", "config.json")
    assert version.size_bytes == sum((export.folder / name).stat().st_size for name in names)

    with (export.folder / "tokenizer.json").open("a") as file:
        file.write(" ")

    with pytest.raises(ConfigurationError, match=r"tokenizer\.json: .* bytes, but version\.toml says"):
        OnnxModel(version, intra_op_num_threads=1)


def test_the_tokenizer_of_a_step_is_covered_without_being_named(tmp_path: Path) -> None:
    export = text_classifier(tmp_path / "reviews" / "v1")
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}]
    version = version_of(export.folder, CLASSIFIER_STEPS, TOKEN_INPUTS, outputs)

    assert version.files == ("tokenizer.json",)
    with pytest.raises(ConfigurationError, match=r"but version\.toml says"):
        OnnxModel(version, intra_op_num_threads=1)


def test_a_step_that_does_not_fit_is_a_fault_of_its_version(tmp_path: Path) -> None:
    export = text_classifier(tmp_path / "reviews" / "v1")
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}]

    with pytest.raises(ConfigurationError, match=r"version\.toml: the step 'argmax' has 3 labels for 2 scores"):
        version_of(export.folder, CLASSIFIER_STEPS.replace('["neg', '["", "neg'), TOKEN_INPUTS, outputs)


def test_a_table_may_be_a_step_too(tmp_path: Path) -> None:
    steps = """
[[before]]
kind = "table"
columns = [{ name = "a" }, { name = "b", default = 1.0 }]
"""
    export = image_classifier(tmp_path / "digits" / "v1")
    inputs = [{"name": "input", "datatype": "FP32", "shape": [-1, 2]}]
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]

    version = version_of(export.path.parent, steps, inputs, outputs)

    assert [column.name for column in version.signature.inputs[0].columns] == ["a", "b"]
    assert version.steps is None


@pytest.mark.parametrize("make", [classifier, embedder, digits])
def test_the_catalogue_topic_tells_a_version_with_its_steps(tmp_path: Path, make: Any) -> None:
    _, version = make(tmp_path)

    entry = entry_of_store(tmp_path, version.model, "v1", generation=1, default_since=1)
    told = version_of_entry(decode_entry(encode_entry(entry)), folder=version.path.parent)

    assert told == version


def test_rows_of_a_version_that_runs_them_alone_are_not_filled_up(tmp_path: Path) -> None:
    _, version = embedder(tmp_path)
    (version.path.parent / "version.toml").write_text(
        "rows_alone = true\n" + (version.path.parent / "version.toml").read_text()
    )
    model = OnnxModel(load_model(version.path.parent.parent).version("v1"), intra_op_num_threads=1)
    assert model.steps is not None
    lengths = []

    def run(inputs: Any) -> dict[str, np.ndarray]:
        lengths.append(inputs["input_ids"].shape)
        return model.run_graph(inputs)

    model.steps.run(texts("good", SENTENCES[0]), run)

    assert [rows for rows, _ in lengths] == [1, 1]
    assert lengths[0] < lengths[1]

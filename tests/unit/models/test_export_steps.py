"""`models add` of exports: the steps that their files ask for, found, declared, checked and told."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError
from models.adding.addition import Added, Addition, add
from models.adding.export_steps import infer_steps, read_steps
from models.adding.graph_notes import parsed_notes
from models.steps.image_step import ImageStep
from models.steps.pooling_steps import FirstToken, MeanPool, Normalize
from models.steps.score_steps import Argmax, Select, Sigmoid, Softmax, Threshold
from models.steps.tokenizer_step import TokenizerStep
from models.store_reader import load_model
from tests.support.exports import SENTENCES, embedding_model, image_classifier, in_base64, text_classifier
from workers.model import OnnxModel


def added(tmp_path: Path, source: Path, **about: Any) -> Added:
    plain: dict[str, Any] = {"version": None, "check": None, "tolerance": 1e-4, "timeout_s": 240}
    addition = Addition(source=str(source), model="export", models_dir=tmp_path / "store", **plain | about)
    return add(addition, say=lambda _: None)


def test_a_text_classifier_is_added_with_its_tokenizer_and_labels(tmp_path: Path) -> None:
    export = text_classifier(tmp_path / "reviews")

    report = added(tmp_path, export.folder).report

    version = load_model(tmp_path / "store" / "export").version("v1")
    given = OnnxModel(version, intra_op_num_threads=1).run(
        {"text": np.array([[SENTENCES[0]]], np.dtypes.StringDType())}
    )
    np.testing.assert_allclose(given["probabilities"], export.scores(SENTENCES[:1]), rtol=1e-4)
    assert version.classes == ("negative", "positive")
    assert [(spec.name, spec.datatype, spec.shape) for spec in version.signature.inputs] == [("text", "BYTES", (-1, 1))]
    assert report.checked.declared.seen == (
        "tokenizer.json: text of up to 64 tokens",
        "config.json: one of 2 labels: softmax, argmax",
    )
    assert set(version.files) == {"tokenizer.json", "config.json"}
    assert version.size_bytes == sum(
        (version.path.parent / name).stat().st_size for name in ("model.onnx", "tokenizer.json", "config.json")
    )


def test_an_embedding_model_is_added_with_pooling_and_the_length_that_it_was_trained_for(tmp_path: Path) -> None:
    export = embedding_model(tmp_path / "sentences")

    found = added(tmp_path, export.folder, max_length=16).report.checked.declared

    assert found.before == (TokenizerStep(max_length=16, count=True),)
    assert found.after == (MeanPool(), Normalize())


def test_check_rows_of_text_are_compared_with_what_is_expected(tmp_path: Path) -> None:
    export = text_classifier(tmp_path / "reviews")
    rows = tmp_path / "rows.csv"
    scores = export.scores(SENTENCES)
    lines = [f'"{text}",{row[0]:.8f},{row[1]:.8f}' for text, row in zip(SENTENCES, scores, strict=True)]
    rows.write_text("\n".join(["text,probabilities.0,probabilities.1", *lines]))

    compared = added(tmp_path, export.folder, check=rows).report.checked.comparison

    assert compared is not None
    assert (compared.rows, compared.outputs) == (len(SENTENCES), ("probabilities",))

    rows.write_text("\n".join(["text,probabilities.0,probabilities.1", f'"{SENTENCES[0]}",0.5,0.5']))
    with pytest.raises(ConfigurationError, match="probabilities differs from what is expected"):
        added(tmp_path, export.folder, check=rows)


def test_steps_of_a_file_are_those_of_the_version(tmp_path: Path) -> None:
    export = image_classifier(tmp_path / "digits")

    added(tmp_path, export.path, steps=export.steps)

    version = load_model(tmp_path / "store" / "export").version("v1")
    files = np.empty((len(export.images), 1), object)
    files[:, 0] = export.images
    given = OnnxModel(version, intra_op_num_threads=1).run({"image": files})
    assert given["label"].tolist() == export.classifier.predict(export.pixels).tolist()


def test_check_rows_of_images_are_base64(tmp_path: Path) -> None:
    export = image_classifier(tmp_path / "digits", rows=5)
    rows = tmp_path / "rows.csv"
    labels = export.classifier.predict(export.pixels)
    lines = [f"{in_base64(file)},{label}" for file, label in zip(export.images, labels, strict=True)]
    rows.write_text("\n".join(["image,label", *lines]))

    compared = added(tmp_path, export.path, steps=export.steps, check=rows).report.checked.comparison

    assert compared is not None
    assert (compared.outputs, compared.labels_differing) == (("label",), 0)


def test_without_steps_clients_send_tokens(tmp_path: Path) -> None:
    export = text_classifier(tmp_path / "reviews")

    added(tmp_path, export.folder, finds_steps=False)

    version = load_model(tmp_path / "store" / "export").version("v1")
    assert [spec.name for spec in version.signature.inputs] == ["input_ids", "attention_mask"]
    assert version.steps is None
    assert "tokenizer.json" in version.files


def test_every_field_of_a_step_is_written_down(tmp_path: Path) -> None:
    export = text_classifier(tmp_path / "reviews")
    added(tmp_path, export.folder)

    written = tomllib.loads((tmp_path / "store" / "export" / "v1" / "version.toml").read_text())

    assert written["before"] == [
        {
            "kind": "tokenizer",
            "file": "tokenizer.json",
            "input": "text",
            "max_length": 64,
            "max_chars": 1_000_000,
            "pad_id": 0,
            "count": False,
        }
    ]


def tokens(*outputs: TensorSpec) -> Signature:
    inputs = tuple(TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in ("input_ids", "attention_mask"))
    return Signature(inputs=inputs, outputs=outputs)


LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(-1, 2))
STATES = TensorSpec(name="last_hidden_state", datatype="FP32", shape=(-1, -1, 8))
POOLED = TensorSpec(name="pooler_output", datatype="FP32", shape=(-1, 8))
PIXELS = Signature(
    inputs=(TensorSpec(name="pixel_values", datatype="FP32", shape=(-1, 3, 224, 224)),), outputs=(LOGITS,)
)


def export_with(folder: Path, **files: Any) -> Path:
    """An export with these files of JSON, and a tokenizer."""
    for name, content in {"tokenizer": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "length"),
    [
        ({}, 512),
        ({"config": {"max_position_embeddings": 512}}, 512),
        ({"config": {"max_position_embeddings": 514, "model_type": "roberta"}}, 512),
        ({"config": {"max_position_embeddings": 512}, "tokenizer_config": {"model_max_length": 1e30}}, 512),
        ({"config": {"max_position_embeddings": 512}, "tokenizer_config": {"model_max_length": 128}}, 128),
        ({"sentence_bert_config": {"max_seq_length": 256}, "tokenizer_config": {"model_max_length": 512}}, 256),
    ],
)
def test_a_text_is_cut_to_the_smallest_length_that_a_file_names(tmp_path: Path, files: Any, length: int) -> None:
    (step,) = infer_steps(export_with(tmp_path, **files), tokens(LOGITS)).before

    assert isinstance(step, TokenizerStep)
    assert step.max_length == length


@pytest.mark.parametrize(
    ("files", "pad"),
    [({"config": {"pad_token_id": 1}}, 1), ({"tokenizer": {"padding": {"pad_id": 7}}, "config": {}}, 7), ({}, 0)],
)
def test_rows_are_filled_up_with_the_padding_of_the_export(tmp_path: Path, files: Any, pad: int) -> None:
    (step,) = infer_steps(export_with(tmp_path, **files), tokens(LOGITS)).before

    assert isinstance(step, TokenizerStep)
    assert step.pad_id == pad


@pytest.mark.parametrize(
    ("config", "outputs", "after"),
    [
        ({}, (LOGITS,), (Softmax(), Argmax())),
        ({"id2label": {"0": "a", "1": "b"}}, (LOGITS,), (Softmax(), Argmax(labels=("a", "b")))),
        ({"id2label": {"0": "a"}}, (LOGITS,), (Softmax(), Argmax())),
        ({"problem_type": "multi_label_classification"}, (LOGITS,), (Sigmoid(), Threshold(output="labels"))),
        ({}, (TensorSpec(name="logits", datatype="FP32", shape=(-1, 1)),), ()),
        ({}, (STATES,), (MeanPool(), Normalize())),
        ({}, (STATES, POOLED), (MeanPool(), Normalize(), Select(outputs=("embedding",)))),
        (
            {},
            (TensorSpec(name="sentence_embedding", datatype="FP32", shape=(-1, 8)), STATES),
            (Normalize(input="sentence_embedding"), Select(outputs=("embedding",))),
        ),
        ({}, (TensorSpec(name="other", datatype="FP32", shape=(-1, 8)),), ()),
    ],
)
def test_the_steps_after_the_model_follow_from_its_outputs(
    tmp_path: Path, config: Any, outputs: tuple[TensorSpec, ...], after: tuple[Any, ...]
) -> None:
    assert infer_steps(export_with(tmp_path, config=config), tokens(*outputs)).after == after


def test_sentence_transformers_name_the_pooling(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))

    assert infer_steps(export_with(tmp_path), tokens(STATES)).after == (FirstToken(), Normalize())

    pooling.write_text(json.dumps({"pooling_mode_weightedmean_tokens": True}))
    with pytest.raises(ConfigurationError, match="pools by weightedmean_tokens, which no step does"):
        infer_steps(export_with(tmp_path), tokens(STATES))


@pytest.mark.parametrize(
    ("about", "step"),
    [
        (
            {
                "size": {"height": 224, "width": 224},
                "resample": 2,
                "do_rescale": True,
                "rescale_factor": 0.00392156862745098,
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            },
            ImageStep(size=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        ),
        (
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "resample": 3,
                "do_rescale": False,
            },
            ImageStep(size=(224, 224), shortest_edge=256, resample="bicubic", scale=1.0),
        ),
        ({"size": 224}, ImageStep(size=(224, 224))),
    ],
)
def test_an_image_is_prepared_as_the_processor_of_the_export_does(tmp_path: Path, about: Any, step: ImageStep) -> None:
    found = infer_steps(export_with(tmp_path, preprocessor_config=about), PIXELS)

    assert found.before == (step,)
    assert found.after == (Softmax(), Argmax())


def test_a_processor_that_no_step_follows_is_refused(tmp_path: Path) -> None:
    export_with(tmp_path, preprocessor_config={"size": {"longest_edge": 224}})

    with pytest.raises(ConfigurationError, match=r"--steps steps\.toml"):
        infer_steps(tmp_path, PIXELS)


def test_an_export_without_a_tokenizer_takes_tokens(tmp_path: Path) -> None:
    found = infer_steps(tmp_path, tokens(LOGITS))

    assert (found.before, found.after) == ((), ())
    assert found.seen == ("no tokenizer.json: clients send the ids of tokens",)


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    export_with(tmp_path)
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(ConfigurationError, match=r"config\.json cannot be read"):
        infer_steps(tmp_path, tokens(LOGITS))


def test_a_file_of_steps_that_holds_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.toml"
    path.write_text('[[before]]\nkind = "resize"\n')

    with pytest.raises(ConfigurationError, match=r"holds no steps: Invalid value 'resize'"):
        read_steps(path)


# What the TOML parser raises errors of other kinds for.
@pytest.mark.parametrize("text", ["x = " + "9" * 5_000, "x = " + "[" * 3_000 + "]" * 3_000], ids=["long", "deep"])
def test_a_file_with_a_long_number_or_deep_nesting_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "described.toml"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match="holds no steps"):
        read_steps(path)
    with pytest.raises(ConfigurationError, match="holds no"):
        parsed_notes(has_row_axis=True, columns=path)

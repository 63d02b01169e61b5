"""Labels of tokens and pairs of texts: an export is added as it is, and answers as its own tokenizer and weights do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.wire.row_texts import text_of
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError, RowsRefusedError
from models.adding.addition import Added, Addition, add
from models.adding.export_steps import infer_steps
from models.catalog import ModelVersion
from models.steps.declared_steps import Steps
from models.steps.score_steps import Stage
from models.steps.token_labels import TEXT, TokenLabels
from models.steps.tokenizer_step import ENDS, STARTS, TokenizerStep
from models.store_reader import load_model
from tests.support.token_exports import LABELS, pair_classifier, token_classifier
from workers.model import OnnxModel

TOKENS = tuple(TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in ("input_ids", "attention_mask"))


def added(tmp_path: Path, source: Path, **about: Any) -> tuple[Added, ModelVersion]:
    plain: dict[str, Any] = {"version": None, "check": None, "tolerance": 1e-4, "timeout_s": 240}
    addition = Addition(source=str(source), model="export", models_dir=tmp_path / "store", **plain | about)
    report = add(addition, say=lambda _: None)
    return report, load_model(tmp_path / "store" / "export").version("v1")


def texts(*values: str) -> np.ndarray:
    return np.array([[value] for value in values], np.dtypes.StringDType())


def test_a_token_classifier_answers_entities_with_their_place_in_the_text(tmp_path: Path) -> None:
    report, version = added(tmp_path, token_classifier(tmp_path / "ner"))
    asked = ("The PARCEL, in two  weeks", "never", "film battery", "")

    answers = OnnxModel(version, intra_op_num_threads=1).run({"text": texts(*asked)})

    assert report.report.checked.declared.seen[-1] == "config.json: 5 labels of tokens: token-labels"
    assert [(spec.name, spec.datatype, spec.shape) for spec in version.signature.outputs] == [
        ("entities", "BYTES", (-1,))
    ]
    found = [json.loads(text) for text in answers["entities"].tolist()]
    assert [[(each["entity_group"], each["word"]) for each in row] for row in found] == [
        [("THING", "PARCEL"), ("TIME", "two  weeks")],
        [],
        # Two that begin beside each other are two.
        [("THING", "film"), ("THING", "battery")],
        [],
    ]
    for row, text in zip(found, asked, strict=True):
        assert all(text[each["start"] : each["end"]] == each["word"] and 0.9 < each["score"] < 1 for each in row)


def stage(best: list[int]) -> Stage[np.ndarray]:
    """One row of one letter a token, with a token before and after it that is not of the text."""
    logits = np.zeros((1, len(best) + 2, len(LABELS)), np.float32)
    for at, label in enumerate(best, start=1):
        logits[0, at, label] = 9
    places = np.arange(len(best))
    starts, ends = ([[-1, *(places + one).tolist(), -1]] for one in (0, 1))
    return Stage(
        {"logits": logits}, {STARTS: np.array(starts), ENDS: np.array(ends), TEXT: texts("abcdefgh"[: len(best)])}
    )


@pytest.mark.parametrize(
    ("best", "groups"),
    [
        ([1, 2, 2], [("THING", 0, 3)]),
        ([2, 2], [("THING", 0, 2)]),
        ([1, 1], [("THING", 0, 1), ("THING", 1, 2)]),
        ([1, 4], [("THING", 0, 1), ("TIME", 1, 2)]),
        ([1, 0, 2], [("THING", 0, 1), ("THING", 2, 3)]),
        ([0, 0], []),
    ],
)
def test_tokens_are_grouped_as_the_pipeline_of_transformers_does(
    best: list[int], groups: list[tuple[str, int, int]]
) -> None:
    [text] = TokenLabels(labels=LABELS).apply(stage(best)).outputs["entities"].tolist()
    assert [(each["entity_group"], each["start"], each["end"]) for each in json.loads(text)] == groups


def test_without_groups_each_token_is_answered_with_its_label() -> None:
    [text] = TokenLabels(labels=LABELS, group=False, ignore=()).apply(stage([1, 0])).outputs["entities"].tolist()
    assert [(each["entity"], each["word"]) for each in json.loads(text)] == [("B-THING", "a"), ("O", "b")]


def test_tokens_in_place_of_a_text_have_no_place_in_it(tmp_path: Path) -> None:
    _, version = added(tmp_path, token_classifier(tmp_path / "ner"))

    with pytest.raises(RowsRefusedError, match="send text, not the ids of tokens"):
        OnnxModel(version, intra_op_num_threads=1).run({"text": texts(text_of([5, 6]))})


@pytest.mark.parametrize(
    ("before", "labels", "reason"),
    [
        ((), LABELS, "needs a step 'tokenizer'"),
        ((TokenizerStep(pair="text_pair"),), LABELS, "reads one text a row"),
        ((TokenizerStep(),), LABELS[:2], "has 2 labels for 5 scores"),
    ],
)
def test_labels_of_tokens_that_do_not_fit_are_refused(before: Any, labels: tuple[str, ...], reason: str) -> None:
    logits = TensorSpec(name="logits", datatype="FP32", shape=(-1, -1, 5))
    graph = Signature(inputs=TOKENS, outputs=(logits,), has_free_axes=True)

    with pytest.raises(ConfigurationError, match=reason):
        Steps(graph=graph, before=before, after=(TokenLabels(labels=labels),)).public()


def test_a_model_of_entailment_takes_pairs_of_texts(tmp_path: Path) -> None:
    export = pair_classifier(tmp_path / "nli")
    report, version = added(tmp_path, export.folder)
    pairs = [("the film was good", "never again"), ("never again", "the film was good"), ("", "kind staff")]

    given = OnnxModel(version, intra_op_num_threads=1).run(
        {"text": texts(*(one for one, _ in pairs)), "text_pair": texts(*(other for _, other in pairs))}
    )

    assert report.report.checked.declared.seen[0] == (
        "tokenizer.json: pairs of texts ('text' and 'text_pair') of up to 64 tokens"
    )
    assert [spec.name for spec in version.signature.inputs] == ["text", "text_pair"]
    expected = np.array([export.scores(*pair) for pair in pairs])
    np.testing.assert_allclose(given["probabilities"], expected, rtol=1e-4, atol=1e-5)
    assert version.classes == ("contradiction", "neutral", "entailment")


def test_a_text_of_a_pair_that_is_too_long_or_no_text_fails_its_row(tmp_path: Path) -> None:
    _, version = added(tmp_path, pair_classifier(tmp_path / "nli").folder)

    with pytest.raises(RowsRefusedError, match=r"row 1: the model takes pairs of texts"):
        OnnxModel(version, intra_op_num_threads=1).run(
            {"text": texts("a", "b"), "text_pair": texts("c", text_of([5, 6]))}
        )


def test_whoever_adds_an_export_says_that_it_takes_pairs(tmp_path: Path) -> None:
    folder = token_classifier(tmp_path / "scores")
    (folder / "config.json").write_text("{}")
    graph = Signature(inputs=TOKENS, outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 1)),))

    [alone], [pairs] = (infer_steps(folder, graph, pairs=chosen).before for chosen in (False, True))

    assert isinstance(alone, TokenizerStep)
    assert isinstance(pairs, TokenizerStep)
    assert (alone.pair, pairs.pair) == (None, "text_pair")

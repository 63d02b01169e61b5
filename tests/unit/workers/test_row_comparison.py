"""Which rows of two versions agree, and how far apart they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.shadow import Answer, classes_digest
from workers.row_comparison import compare_all, compare_rows, labels_of

CLASSES = ("cat", "dog")
FLOATS = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=6)


def answer(outputs: dict[str, np.ndarray], classes: tuple[str, ...] = CLASSES) -> Answer:
    labels = labels_of(outputs, "label" if "label" in outputs else None, classes)
    return Answer(
        outputs=outputs,
        row_time_s=0.001,
        labels=None if labels is None else tuple(labels),
        classes_digest=classes_digest(classes),
    )


def classifier(labels: list[int], scores: list[list[float]]) -> dict[str, np.ndarray]:
    return {"label": np.array(labels), "scores": np.array(scores, np.float32)}


def test_classes_agree_by_name_and_scores_are_compared_where_the_classes_are_the_same() -> None:
    said = classifier([0, 1], [[0.9, 0.1], [0.4, 0.6]])
    now = classifier([0, 0], [[0.8, 0.2], [0.7, 0.3]])
    found = compare_rows(answer(said), now, label_output="label", classes=CLASSES)
    assert found is not None
    assert found.agrees.tolist() == [True, False]
    assert found.distance == pytest.approx([0.1, 0.3], abs=1e-6)
    assert (found.original, found.shadow) == (("cat", "dog"), ["cat", "cat"])


def test_a_version_with_its_classes_in_another_order_agrees_where_it_names_the_same_class() -> None:
    said = classifier([0, 1], [[0.9, 0.1], [0.4, 0.6]])
    now = classifier([1, 1], [[0.1, 0.9], [0.1, 0.9]])
    found = compare_rows(answer(said), now, label_output="label", classes=CLASSES[::-1])
    assert found is not None
    assert found.agrees.tolist() == [True, False]
    assert found.distance.tolist() == [0.0, 1.0]


def test_numbers_agree_within_a_twentieth_of_their_size_and_strings_only_if_equal() -> None:
    price = {"price": np.array([100.0, 100.0, np.nan, 1.0])}
    now = {"price": np.array([102.0, 120.0, np.nan, np.nan])}
    found = compare_rows(answer(price, ()), now, label_output=None, classes=())
    assert found is not None
    assert found.agrees.tolist() == [True, False, True, False]
    words = compare_rows(
        answer({"text": np.array(["a", "b"])}, ()), {"text": np.array(["a", "c"])}, label_output=None, classes=()
    )
    assert words is not None
    assert words.agrees.tolist() == [True, False]


def test_versions_without_a_common_output_or_with_other_rows_are_not_compared() -> None:
    one, other = {"a": np.zeros(2)}, {"b": np.zeros(2)}
    assert compare_rows(answer(one, ()), other, label_output=None, classes=()) is None
    assert compare_rows(answer(one, ()), {"a": np.zeros(3)}, label_output=None, classes=()) is None


@given(FLOATS, FLOATS)
def test_a_distance_is_from_0_to_1_and_0_for_the_same(one: list[float], other: list[float]) -> None:
    rows = min(len(one), len(other))
    said, now = {"x": np.array(one[:rows])}, {"x": np.array(other[:rows])}
    found = compare_rows(answer(said, ()), now, label_output=None, classes=())
    assert found is not None
    assert ((found.distance >= 0) & (found.distance <= 1)).all()
    same = compare_rows(answer(said, ()), said, label_output=None, classes=())
    assert same is not None
    assert same.distance.tolist() == [0.0] * rows


@st.composite
def answered_pairs(draw: st.DrawFn) -> list[tuple[Answer, dict[str, np.ndarray]]]:
    """Pairs with classes of one version, some of which differ in their outputs, their rows or their labels."""

    def outputs(rows: int) -> dict[str, np.ndarray]:
        labels = draw(st.lists(st.integers(-1, 3), min_size=rows, max_size=rows))
        scores = draw(st.lists(st.floats(-1, 2, width=32), min_size=2 * rows, max_size=2 * rows))
        made = classifier(labels, np.reshape(np.array(scores, np.float32), (rows, 2)).tolist())
        if rows == 0:
            made = {"label": np.zeros(0, np.int64), "scores": np.zeros((0, 2), np.float32)}
        return made | ({"more": np.zeros(rows)} if draw(st.booleans()) else {})

    pairs = []
    for rows in draw(st.lists(st.integers(0, 3), max_size=6)):
        said = answer(outputs(rows), draw(st.sampled_from([CLASSES, CLASSES[::-1]])))
        if draw(st.integers(0, 4)) == 0:
            said = Answer(outputs=said.outputs, row_time_s=0.001, labels=(*(said.labels or ()), "cat"))
        pairs.append((said, outputs(draw(st.sampled_from([rows, rows, rows, rows + 1])))))
    return pairs


@given(answered_pairs(), st.sampled_from(["label", None]))
def test_many_copies_at_once_compare_as_each_alone(
    pairs: list[tuple[Answer, dict[str, np.ndarray]]], label_output: str | None
) -> None:
    """Guards the groups of `compare_all`: without their kinds, rows of unlike outputs are mixed up."""
    at_once = compare_all(pairs, label_output=label_output, classes=CLASSES)
    for (said, outputs), found in zip(pairs, at_once, strict=True):
        alone = compare_rows(said, outputs, label_output=label_output, classes=CLASSES)
        assert (found is None) == (alone is None)
        if found is not None and alone is not None:
            assert found.agrees.tolist() == alone.agrees.tolist()
            assert found.distance == pytest.approx(alone.distance)
            assert (list(found.original), list(found.shadow)) == (list(alone.original), list(alone.shadow))

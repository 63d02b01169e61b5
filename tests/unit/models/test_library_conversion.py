"""What converters of libraries get wrong or do not know, mended: the graph answers what the library predicts."""

import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import xgboost
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from skops import io as skops
from threadpoolctl import threadpool_limits

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError
from models.adding.addition import Addition, add
from models.adding.archives import check_archive
from models.adding.library_models import open_model
from models.adding.reference_comparison import compare
from models.adding.sample_rows import draw_rows
from models.adding.sources import SourceKind
from models.store_reader import load_catalog

FEATURES, CLASSES = load_iris(return_X_y=True)
FEATURES = FEATURES.astype(np.float32)
WITH_NAN = np.where(np.random.default_rng(1).random(FEATURES.shape) < 0.2, np.nan, FEATURES).astype(np.float32)
TEXTS = ["good day", "bad day", "good night", "Ärger über Öl", "naïve 日本語", "bad luck"] * 4
SIDES = ["up", "down", "up", "down", "up", "down"] * 4
TABLE = pd.DataFrame(
    {
        "country": np.array(["DE", "FR", "IT"])[np.arange(150) % 3],
        "monthly amount": FEATURES[:, 1],
        "note": np.array(["good day", "bad day"])[np.arange(150) % 2],
        "month": np.arange(150) % 12,
    }
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(limits=1):
        yield


def converted(model: Any, folder: Path) -> onnxruntime.InferenceSession:
    path = folder / "model.skops"
    skops.dump(model, path)
    graph = open_model(path, SourceKind.SKOPS, trusted=True).to_onnx(None)
    return onnxruntime.InferenceSession(graph.SerializeToString())


def scores(session: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = session.run(None, dict(inputs))[1]
    return found


def of_table(*steps: Any) -> Any:
    return make_pipeline(ColumnTransformer(list(steps)), LogisticRegression(max_iter=500)).fit(TABLE, CLASSES)


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        pytest.param(lambda: HistGradientBoostingClassifier(max_iter=3), WITH_NAN, id="histogram-trees-and-nan"),
        pytest.param(lambda: GradientBoostingClassifier(n_estimators=3), FEATURES, id="boosted-trees"),
        pytest.param(
            lambda: VotingClassifier(
                [("a", LogisticRegression(max_iter=300)), ("b", DecisionTreeClassifier(max_depth=3))], voting="soft"
            ),
            FEATURES,
            id="voting",
        ),
        pytest.param(
            lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
            (FEATURES * 2).astype(np.int64),
            id="categories-that-are-whole-numbers",
        ),
        pytest.param(
            lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
            np.array([["DE", "a"], ["FR", "b"], ["IT", "a"]] * 50, dtype=object),
            id="an-array-of-texts",
        ),
    ],
)
def test_a_classifier_of_an_array_scores_as_scikit_learn_does(
    tmp_path: Path, model: Callable[[], Any], rows: np.ndarray
) -> None:
    fitted = model().fit(rows, CLASSES)

    found = scores(converted(fitted, tmp_path), {"input": rows})

    np.testing.assert_allclose(found, fitted.predict_proba(rows), atol=1e-5)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(("a", StandardScaler(), ["monthly amount"]), id="a-name-with-a-space"),
        pytest.param(("a", TfidfVectorizer(), "note"), id="a-column-of-words"),
        pytest.param(("a", OneHotEncoder(handle_unknown="ignore"), ["month"]), id="whole-numbers"),
    ],
)
def test_columns_are_inputs_of_their_own_name_and_type(tmp_path: Path, step: Any) -> None:
    fitted = of_table(("country", OneHotEncoder(handle_unknown="ignore"), ["country"]), step)
    used = [name for name in TABLE if name == "country" or name in np.ravel(step[2])]

    found = scores(converted(fitted, tmp_path), {name: TABLE[[name]].to_numpy() for name in used})

    np.testing.assert_allclose(found, fitted.predict_proba(TABLE), atol=1e-5)


@pytest.mark.parametrize("last", [LogisticRegression, LinearSVC])
def test_words_of_all_alphabets_count(tmp_path: Path, last: Callable[[], Any]) -> None:
    fitted = make_pipeline(TfidfVectorizer(), last()).fit(TEXTS, SIDES)
    way = "predict_proba" if hasattr(fitted, "predict_proba") else "decision_function"

    found = scores(converted(fitted, tmp_path), {"input": np.array(TEXTS, dtype=object)[:, None]})

    np.testing.assert_allclose(found.ravel(), getattr(fitted, way)(TEXTS).ravel(), atol=1e-5)


def test_the_scores_of_several_labels_have_their_rows_first(tmp_path: Path) -> None:
    labels = np.stack([CLASSES > 0, CLASSES > 1], axis=1).astype(int)
    fitted = RandomForestClassifier(3, random_state=0).fit(FEATURES, labels)

    # Off the thresholds, which lie between the rows of training and are rounded.
    rows = FEATURES + np.float32(0.013)
    label, found = converted(fitted, tmp_path).run(None, {"input": rows})

    np.testing.assert_array_equal(label, fitted.predict(rows))
    np.testing.assert_allclose(found, np.stack(fitted.predict_proba(rows), axis=1), atol=1e-6)


def test_text_and_numbers_without_names_say_what_to_do(tmp_path: Path) -> None:
    steps = [("a", OneHotEncoder(), [0]), ("b", StandardScaler(), [1])]
    fitted = make_pipeline(ColumnTransformer(steps), LogisticRegression()).fit(TABLE.iloc[:, :2], CLASSES)

    with pytest.raises(ConfigurationError, match="Fit it on a DataFrame, and name the columns"):
        converted(fitted, tmp_path)


def opened(model: Any, path: Path) -> Any:
    model.save_model(path)
    return open_model(path, SourceKind.XGBOOST, trusted=False)


def test_a_ranker_of_xgboost_is_served_as_its_trees(tmp_path: Path) -> None:
    fitted = xgboost.XGBRanker(n_estimators=3, max_depth=2, n_jobs=1).fit(WITH_NAN, CLASSES, group=[75, 75])

    session = onnxruntime.InferenceSession(opened(fitted, tmp_path / "m.json").to_onnx(None).SerializeToString())

    np.testing.assert_allclose(session.run(None, {"input": WITH_NAN})[0].ravel(), fitted.predict(WITH_NAN), atol=1e-5)


def test_a_booster_of_xgboost_that_answers_classes_has_scores(tmp_path: Path) -> None:
    data = xgboost.DMatrix(WITH_NAN, CLASSES, feature_names=["a", "b", "c c", "d"])
    fitted = xgboost.train({"objective": "multi:softmax", "num_class": 3, "max_depth": 2, "nthread": 1}, data, 3)

    session = onnxruntime.InferenceSession(opened(fitted, tmp_path / "m.ubj").to_onnx(None).SerializeToString())
    label, found = session.run(None, {"input": WITH_NAN})

    np.testing.assert_array_equal(label, fitted.predict(data))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("booster", "options"), [("dart", {"one_drop": True, "rate_drop": 0.5}), ("gblinear", {})])
def test_a_booster_that_no_converter_knows_is_named(tmp_path: Path, booster: str, options: dict[str, Any]) -> None:
    """XGBoost 3.4, which needs Python 3.12, calls a booster with dropout `gbtree`, and its trees lost their weights."""
    fitted = xgboost.XGBRegressor(booster=booster, n_estimators=3, n_jobs=1, **options)
    fitted.fit(FEATURES, FEATURES[:, 0])

    with pytest.raises(ConfigurationError, match=f"the booster '{booster}'.*booster='gbtree'"):
        opened(fitted, tmp_path / "m.json")


def test_a_row_at_a_tie_may_have_either_label_and_no_other_row() -> None:
    even, clear = np.array([[0.5, 0.5], [0.1, 0.9]]), np.array([[0.4, 0.6], [0.1, 0.9]])

    def compared(wanted: np.ndarray) -> int:
        found = {"label": np.array([0, 1]), "scores": wanted.astype(np.float32)}
        expected = {"label": np.array([1, 1]), "scores": wanted}
        return compare(found, expected, 1e-4, expected_of="the library").labels_differing

    assert compared(even) == 0
    with pytest.raises(ConfigurationError, match="label differs from the library in 1 of 2 rows; row 0"):
        compared(clear)


def test_rows_are_drawn_from_finite_thresholds(tmp_path: Path) -> None:
    """Guards trees that split missing values from all others: their threshold is infinite."""
    target = np.isnan(WITH_NAN[:, 0]).astype(int)
    fitted = RandomForestClassifier(3, random_state=0).fit(WITH_NAN, target)
    skops.dump(fitted, tmp_path / "model.skops")
    graph = open_model(tmp_path / "model.skops", SourceKind.SKOPS, trusted=True).to_onnx(None)
    (spec,) = (TensorSpec(name="input", datatype="FP32", shape=(-1, 4)),)

    rows = draw_rows(graph, Signature.of_graph((spec,), ()), texts={}, with_nan=False)

    assert np.isfinite(rows["input"]).all()


def added(model: Any, folder: Path, *, check: Path | None = None) -> Any:
    skops.dump(model, folder / "model.skops")
    addition = Addition(
        source=str(folder / "model.skops"),
        model="m",
        version=None,
        models_dir=folder / "store",
        check=check,
        tolerance=1e-4,
        timeout_s=300.0,
        trust_pickle=True,
    )
    report = add(addition, say=lambda _: None).report
    return report, load_catalog(folder / "store", default_model="m").model().version("v1").signature


@pytest.mark.timeout(300)
def test_missing_values_that_the_converter_would_send_astray_are_refused(tmp_path: Path) -> None:
    """Guards against wrong answers: the graph has trees, which take NaN, and the converter loses where it goes.

    The outputs have the shape that they have, whatever the converter says.
    """
    fitted = RandomForestRegressor(3, max_depth=4, random_state=0).fit(WITH_NAN, FEATURES[:, :2])

    report, signature = added(fitted, tmp_path)

    assert [spec.allow_nan for spec in signature.inputs] == [False]
    assert any("missing values (NaN) are refused" in change for change in report.changes)
    assert [spec.shape for spec in signature.outputs] == [(-1, 2)]


@pytest.mark.timeout(300)
def test_missing_values_that_the_library_takes_alike_are_answered(tmp_path: Path) -> None:
    fitted = HistGradientBoostingClassifier(max_iter=2).fit(WITH_NAN, CLASSES)

    report, signature = added(fitted, tmp_path)

    assert [spec.allow_nan for spec in signature.inputs] == [True]
    assert report.changes == ()


@pytest.mark.timeout(300)
def test_digits_that_the_model_needs_and_the_graph_loses_are_seen_in_the_rows_of_a_check(tmp_path: Path) -> None:
    """Guards `CheckRows.unrounded`: the library predicted rounded rows too, and was as wrong as the graph."""
    whole = 2.0**40 + 1_000 * np.arange(50)
    fitted = make_pipeline(StandardScaler(), LinearRegression()).fit(whole[:, None], np.arange(50.0))
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(["seconds", *map(repr, whole.tolist())]))

    with pytest.raises(ConfigurationError, match=r"differs from what the library predicts in \d+ of 50 rows"):
        added(fitted, tmp_path, check=rows)


def test_a_model_that_takes_numbers_of_its_fit_alone_is_compared_with_those(tmp_path: Path) -> None:
    """Guards `KMeans`, which refused the float32 rows of the comparison with "Buffer dtype mismatch"."""
    fitted = KMeans(3, n_init=1, random_state=0).fit(FEATURES.astype(np.float64))
    skops.dump(fitted, tmp_path / "model.skops")
    estimator = open_model(tmp_path / "model.skops", SourceKind.SKOPS, trusted=True)

    distances, labels = estimator.predictions({"input": FEATURES})

    np.testing.assert_array_equal(labels, fitted.predict(FEATURES.astype(np.float64)))
    np.testing.assert_array_equal(distances, fitted.transform(FEATURES.astype(np.float64)))


class Ends:
    def __reduce__(self) -> Any:
        return sys.exit, (0,)


def test_a_pickle_that_ends_its_process_well_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Ends()))
    addition = Addition(
        source=str(tmp_path / "model.pkl"),
        model="m",
        version=None,
        models_dir=tmp_path / "store",
        check=None,
        tolerance=1e-4,
        timeout_s=60.0,
        trust_pickle=True,
    )
    with pytest.raises(ConfigurationError, match=r"model\.pkl ended the process that ran it before it was done, with"):
        add(addition, say=lambda _: None)


def test_an_archive_that_would_fill_the_memory_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("schema.json", "w") as entry:
        for _ in range(17):
            entry.write(bytes(16 * 1024 * 1024))

    with pytest.raises(ConfigurationError, match=r"its content 272, more than 20 times as much"):
        check_archive(path)


def test_an_archive_of_weights_is_opened(tmp_path: Path) -> None:
    skops.dump(LogisticRegression().fit(FEATURES, CLASSES), tmp_path / "model.skops")
    (tmp_path / "text.skops").write_text("no archive")

    check_archive(tmp_path / "model.skops")
    check_archive(tmp_path / "text.skops")

"""A zoo of models as their libraries save them: each is added, and answers what the library predicts."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skops import io as skops
from threadpoolctl import threadpool_limits

from inferlane.errors import ConfigurationError
from models.adding.addition import Added, Addition, add
from models.catalog import ModelVersion
from models.store_reader import load_catalog
from models.verify import verify_version
from workers.model import OnnxModel

FEATURES, CLASSES = load_iris(return_X_y=True)
FEATURES = FEATURES.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])[CLASSES]
WITH_NAN = np.where(np.random.default_rng(1).random(FEATURES.shape) < 0.1, np.nan, FEATURES).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(limits=1):
        yield


def added(folder: Path, source: Path, **options: Any) -> tuple[Added, ModelVersion]:
    about: dict[str, Any] = {
        "source": str(source),
        "model": "zoo",
        "version": None,
        "models_dir": folder / "store",
        "check": None,
        "tolerance": 1e-4,
        "timeout_s": 120.0,
    }
    found = add(Addition(**(about | options)), say=lambda _: None)
    version = load_catalog(folder / "store", default_model="zoo").model().version("v1")
    verify_version(version)
    return found, version


def answers(version: ModelVersion, rows: np.ndarray) -> dict[str, np.ndarray]:
    return OnnxModel(version, intra_op_num_threads=1).run({version.signature.inputs[0].name: rows})


def as_skops(model: Any, folder: Path) -> Path:
    skops.dump(model, folder / "model.skops")
    return folder / "model.skops"


FITTED: dict[str, Callable[[], Any]] = {
    "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(FEATURES, CLASSES),
    "forest-of-names": lambda: RandomForestClassifier(5, max_depth=4, random_state=0).fit(FEATURES, NAMES),
    "forest-of-values": lambda: RandomForestRegressor(5, random_state=0).fit(FEATURES, FEATURES[:, 0] * 1_000),
    "isolation-forest": lambda: IsolationForest(n_estimators=5, random_state=0).fit(FEATURES),
    "k-means": lambda: KMeans(3, n_init=1, random_state=0).fit(FEATURES),
}


@pytest.mark.parametrize("name", FITTED)
def test_a_skops_file_answers_what_scikit_learn_predicts(tmp_path: Path, name: str) -> None:
    model = FITTED[name]()

    found, version = added(tmp_path, as_skops(model, tmp_path))

    compared = found.report.checked.library_comparison
    assert compared is not None
    assert (compared.rows, compared.labels_differing) == (256, 0)
    outputs = answers(version, FEATURES)
    assert set(compared.outputs) == set(outputs)
    if name == "pipeline":
        assert found.classes == {"probabilities": ("0", "1", "2")}
    first = next(iter(outputs.values())).ravel()
    predicted = model.predict(FEATURES)
    if name == "forest-of-names":
        assert version.classes == tuple(model.classes_)
        first = np.array(version.classes)[first]
        assert first.tolist() == predicted.tolist()
    else:
        np.testing.assert_allclose(first, predicted, rtol=1e-5)


def boosted(library: str, kind: str) -> Any:
    if library == "xgboost":
        model = xgboost.XGBClassifier if kind == "classifier" else xgboost.XGBRegressor
        return model(n_estimators=5, max_depth=3, n_jobs=1).fit(WITH_NAN, CLASSES)
    model = lightgbm.LGBMClassifier if kind == "classifier" else lightgbm.LGBMRegressor
    return model(n_estimators=5, n_jobs=1, verbose=-1).fit(WITH_NAN, CLASSES)


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_trees_answer_what_their_library_predicts_with_nan(tmp_path: Path, library: str, kind: str) -> None:
    model = boosted(library, kind)
    path = tmp_path / ("model.json" if library == "xgboost" else "model.txt")
    (model if library == "xgboost" else model.booster_).save_model(path)

    found, version = added(tmp_path, path)

    assert found.report.checked.accepts_nan
    outputs = answers(version, WITH_NAN)
    wanted = model.predict_proba(WITH_NAN) if kind == "classifier" else model.predict(WITH_NAN)
    np.testing.assert_allclose(list(outputs.values())[-1].reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


def test_columns_by_name_become_inputs_of_their_own(tmp_path: Path) -> None:
    frame = pd.DataFrame({"amount": FEATURES[:, 0], "unused": 1.0, "age": FEATURES[:, 1]})
    numbers = ColumnTransformer([("scaled", StandardScaler(), ["age", "amount"])])
    model = make_pipeline(numbers, LogisticRegression()).fit(frame, CLASSES)

    found, version = added(tmp_path, as_skops(model, tmp_path))

    assert [(spec.name, spec.shape) for spec in version.signature.inputs] == [("amount", (-1, 1)), ("age", (-1, 1))]
    assert found.report.checked.library_comparison is not None


def test_check_rows_are_those_that_the_library_predicts_too(tmp_path: Path) -> None:
    model = FITTED["pipeline"]()
    table = pd.DataFrame(FEATURES, columns=list("abcd")).assign(label=model.predict(FEATURES))
    table.to_parquet(tmp_path / "rows.parquet")

    report = added(tmp_path, as_skops(model, tmp_path), check=tmp_path / "rows.parquet")[0].report

    assert report.checked.library_comparison is not None
    assert report.checked.comparison is not None
    assert report.checked.library_comparison.rows == report.checked.comparison.rows == 150
    assert report.checked.comparison.outputs == ("label",)


def test_a_pickle_is_opened_only_where_somebody_trusts_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(FITTED["pipeline"]()))

    with pytest.raises(ConfigurationError, match=r"is a pickle, which runs whatever.*--trust-pickle"):
        added(tmp_path, path)
    assert added(tmp_path, path, trust_pickle=True)[1].version == "v1"


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_runs_nothing_before_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(pickle.dumps(Bomb(tmp_path / "went-off")))

    with pytest.raises(ConfigurationError):
        added(tmp_path, tmp_path / "model.joblib")
    assert not (tmp_path / "went-off").exists()

    with pytest.raises(ConfigurationError, match="which is no fitted model"):
        added(tmp_path, tmp_path / "model.joblib", trust_pickle=True)
    assert (tmp_path / "went-off").exists()


def text_model() -> Any:
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good day", "bad day"], [1, 0])


def text_columns(unknown: str = "ignore") -> Any:
    frame = pd.DataFrame({"country": ["DE", "FR", "DE", "IT"], "amount": [1.0, 2.0, 3.0, 4.0]})
    columns = ColumnTransformer(
        [("country", OneHotEncoder(handle_unknown=unknown), ["country"]), ("amount", "passthrough", ["amount"])]
    )
    return make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1, 0, 1])


@pytest.mark.parametrize("make", [text_model, text_columns])
def test_text_is_an_input_like_numbers(tmp_path: Path, make: Callable[[], Any]) -> None:
    found, version = added(tmp_path, as_skops(make(), tmp_path))

    assert version.signature.inputs[0].datatype == "BYTES"
    compared = found.report.checked.library_comparison
    assert compared is not None
    assert (len(compared.outputs), compared.labels_differing) == (2, 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: text_columns("error"), "Unknown Category.*handle_unknown='ignore'"),
        (LogisticRegression, "the LogisticRegression has not been fitted"),
        (lambda: StandardScaler().fit(FEATURES).get_params(), "holds a dict, which is no fitted model"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[], Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        added(tmp_path, as_skops(make(), tmp_path))

    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model.skops", "cannot be converted|is no"),
        ("model.json", "is no model of XGBoost"),
        ("model.txt", "is no model of LightGBM"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / name).write_text("{}")

    with pytest.raises(ConfigurationError, match=sentence):
        added(tmp_path, tmp_path / name)


def test_a_conversion_that_differs_from_the_library_is_refused(tmp_path: Path) -> None:
    # scikit-learn counts in float64 and ONNX in float32: they agree in the first digits alone.
    source = as_skops(FITTED["pipeline"](), tmp_path)

    with pytest.raises(ConfigurationError, match=r"probabilities differs from what the library predicts in .* of 256"):
        added(tmp_path, source, tolerance=1e-12)

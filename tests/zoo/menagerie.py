"""The models of the zoo: how each is made, rows to ask it, and what its own library predicts for them."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnxmltools
import pandas as pd
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as FloatTensor
from skl2onnx import to_onnx
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from skops import io as skops

from models.adding.graph_notes import GraphNotes

TORCH = Path(__file__).parent / "torch_models"
FEATURES, CLASSES = load_iris(return_X_y=True)
FEATURES = FEATURES.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])[CLASSES]
WITH_NAN = np.where(np.random.default_rng(1).random(FEATURES.shape) < 0.2, np.nan, FEATURES).astype(np.float32)
CATEGORIES = np.column_stack([np.arange(150) % 5, FEATURES[:, 0]]).astype(np.float32)
ASKED = slice(0, 150, 19)
FRAME = pd.DataFrame({"country": np.array(["DE", "FR", "IT"])[np.arange(150) % 3], "amount": FEATURES[:, 2]})
TEXTS = ["good day", "bad day", "good night", "bad luck", "fine weather"] * 4


@dataclass(frozen=True, kw_only=True)
class Animal:
    """A model file with rows, as clients write them in JSON, and what is expected of its outputs by name.

    `expected` names outputs by their place, since exporters choose the names.
    """

    file: str
    write: Callable[[Path], object]
    rows: list[Any]
    expected: Mapping[int, np.ndarray]
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4

    @property
    def is_a_table(self) -> bool:
        """Whether each row is single values, as CSV holds them."""
        return not any(isinstance(value, list) for row in self.rows for value in _values(row))


def _values(row: Any) -> list[Any]:
    return list(row.values()) if isinstance(row, dict) else list(row)


def _skops(model: Any, rows: Any, expected: Mapping[int, Any], **about: Any) -> Animal:
    return Animal(
        file="model.skops",
        write=lambda path: skops.dump(model, path),
        rows=rows,
        expected={place: np.asarray(values) for place, values in expected.items()},
        **about,
    )


def _numbers(rows: np.ndarray) -> list[Any]:
    """Rows in JSON, where a missing value is null."""
    return [[None if value != value else value for value in row] for row in rows.tolist()]  # noqa: PLR0124 - NaN alone


def _classifier(model: Any, labels: np.ndarray = CLASSES) -> Animal:
    fitted = model.fit(FEATURES, labels)
    asked = FEATURES[ASKED]
    return _skops(fitted, _numbers(asked), {0: fitted.predict(asked), 1: fitted.predict_proba(asked)})


def _written(model: Any, path: Path) -> None:
    path.write_bytes(model.SerializeToString())


def _text_and_numbers() -> Animal:
    columns = ColumnTransformer(
        [
            ("country", OneHotEncoder(handle_unknown="ignore"), ["country"]),
            ("amount", make_pipeline(SimpleImputer(), StandardScaler()), ["amount"]),
        ]
    )
    fitted = make_pipeline(columns, LogisticRegression()).fit(FRAME, CLASSES)
    asked = FRAME[ASKED]
    rows = [{"country": row.country, "amount": float(row.amount)} for row in asked.itertuples()]
    return _skops(fitted, rows, {0: fitted.predict(asked), 1: fitted.predict_proba(asked)})


def _words_and_missing_values() -> Animal:
    """Words in a column, a name with a space, and trees that know where missing values go."""
    amounts = np.where(np.arange(150) % 7 == 0, np.nan, FEATURES[:, 1])
    frame = pd.DataFrame({"note": np.resize(TEXTS, 150), "monthly amount": amounts})
    columns = ColumnTransformer(
        [("note", TfidfVectorizer(), "note"), ("amount", "passthrough", ["monthly amount"])], sparse_threshold=0
    )
    fitted = make_pipeline(columns, HistGradientBoostingClassifier(max_iter=3)).fit(frame, CLASSES)
    asked = frame[ASKED]
    rows = [{"note": note, "monthly amount": None if amount != amount else amount} for note, amount in asked.to_numpy()]  # noqa: PLR0124 - NaN alone
    return _with_trust(_skops(fitted, rows, {0: fitted.predict(asked), 1: fitted.predict_proba(asked)}))


def _array_of_texts() -> Animal:
    rows = np.array([["DE", "a"], ["FR", "b"], ["IT", "a"]] * 50, dtype=object)
    fitted = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(rows, CLASSES)
    asked = np.array([["DE", "b"], ["unknown", "a"]], dtype=object)
    return _skops(fitted, asked.tolist(), {0: fitted.predict(asked), 1: fitted.predict_proba(asked)})


def _ranker() -> Animal:
    fitted = xgboost.XGBRanker(n_estimators=4, max_depth=2, n_jobs=1).fit(WITH_NAN, CLASSES, group=[75, 75])
    asked = WITH_NAN[ASKED]
    return Animal(file="model.json", write=fitted.save_model, rows=_numbers(asked), expected={0: fitted.predict(asked)})


def _texts() -> Animal:
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, ["up", "down", "up", "down", "up"] * 4)
    asked = ["good day", "bad weather", "nothing known"]
    return _skops(fitted, [[text] for text in asked], {0: fitted.predict(asked), 1: fitted.predict_proba(asked)})


def _zip_mapped_forest() -> Animal:
    fitted = RandomForestClassifier(5, max_depth=4, random_state=0).fit(FEATURES, NAMES)
    asked = FEATURES[ASKED]
    return Animal(
        file="model.onnx",
        # As the exporter does it by default: labels are text, scores a list of maps.
        write=lambda path: _written(to_onnx(fitted, FEATURES[:1], target_opset={"": 21, "ai.onnx.ml": 3}), path),
        rows=_numbers(asked),
        expected={0: fitted.predict(asked), 1: fitted.predict_proba(asked)},
    )


def _pickled() -> Animal:
    fitted = DecisionTreeClassifier(max_depth=3).fit(FEATURES, CLASSES)
    asked = FEATURES[ASKED]
    return Animal(
        file="model.joblib",
        write=lambda path: joblib.dump(fitted, path),
        rows=_numbers(asked),
        expected={0: fitted.predict(asked), 1: fitted.predict_proba(asked)},
        options={"trust_pickle": True},
    )


def _xgboost(kind: str, ending: str) -> Animal:
    made = xgboost.XGBClassifier if kind == "classifier" else xgboost.XGBRegressor
    fitted = made(n_estimators=5, max_depth=3, n_jobs=1).fit(WITH_NAN, CLASSES)
    asked = WITH_NAN[ASKED]
    found = {1: fitted.predict_proba(asked)} if kind == "classifier" else {}
    return Animal(
        file=f"model.{ending}",
        write=fitted.save_model,
        rows=_numbers(asked),
        expected={0: fitted.predict(asked), **found},
    )


def _boosted_pipeline() -> Animal:
    model = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=4, max_depth=2, n_jobs=1))
    return _with_trust(_classifier(model))


def _with_trust(animal: Animal) -> Animal:
    return Animal(
        file=animal.file,
        write=animal.write,
        rows=animal.rows,
        expected=animal.expected,
        options={"trust_pickle": True},
        tolerance=animal.tolerance,
    )


def _lightgbm(kind: str, rows: np.ndarray, **fitting: Any) -> Animal:
    made = lightgbm.LGBMClassifier if kind == "classifier" else lightgbm.LGBMRegressor
    fitted = made(n_estimators=5, n_jobs=1, verbose=-1, min_child_samples=5).fit(rows, CLASSES, **fitting)
    asked = rows[ASKED]
    found = {0: fitted.predict(asked)}
    if kind == "classifier":
        found[1] = fitted.predict_proba(asked)
    return Animal(
        file="model.txt",
        write=fitted.booster_.save_model,
        rows=_numbers(asked),
        expected=found,
    )


def _zip_mapped_boosting() -> Animal:
    fitted = lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(FEATURES, NAMES)
    asked = FEATURES[ASKED]
    types = [("input", FloatTensor([None, 4]))]
    return Animal(
        file="model.onnx",
        write=lambda path: _written(onnxmltools.convert_lightgbm(fitted, initial_types=types), path),
        rows=_numbers(asked),
        expected={0: fitted.predict(asked), 1: fitted.predict_proba(asked)},
    )


def _torch(name: str, **about: Any) -> Animal:
    """A model of `torch_models/`; a row of several inputs is an object."""
    with np.load(TORCH / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    output = arrays.pop("output")
    inputs = list(arrays.values())
    if name == "encoder":
        rows = _tokens(arrays["input_ids"], arrays["attention_mask"])
    elif len(inputs) == 1:
        rows = inputs[0].tolist()
    else:
        rows = [dict(zip(arrays, row, strict=True)) for row in zip(*(part.tolist() for part in inputs), strict=True)]

    def write(path: Path) -> None:
        for source in TORCH.glob(f"{name}.onnx*"):
            target = path if source.suffix == ".onnx" else path.parent / source.name
            target.write_bytes(source.read_bytes())

    return Animal(file=f"{name}.onnx", write=write, rows=rows, expected={0: output}, **about)


def _tokens(tokens: np.ndarray, mask: np.ndarray) -> list[Any]:
    """Rows of different lengths, without the fill."""
    lengths = mask.sum(axis=1)
    return [
        {"input_ids": row[:length].tolist(), "attention_mask": [1] * int(length)}
        for row, length in zip(tokens, lengths, strict=True)
    ]


def _answered(model: Any, way: str, rows: np.ndarray = FEATURES) -> Animal:
    """A model whose only output is what it answers in one way."""
    return _skops(model, _numbers(rows[ASKED]), {0: getattr(model, way)(rows[ASKED])})


# Thirty of them.
ANIMALS: Mapping[str, Callable[[], Animal]] = {
    "pipeline": lambda: _classifier(make_pipeline(StandardScaler(), LogisticRegression())),
    "text-and-numbers": _text_and_numbers,
    "forest": lambda: _classifier(RandomForestClassifier(5, max_depth=4, random_state=0)),
    "forest-of-names": lambda: _classifier(RandomForestClassifier(5, max_depth=4, random_state=0), NAMES),
    "forest-zip-map": _zip_mapped_forest,
    "tf-idf": _texts,
    "isolation-forest": lambda: _answered(IsolationForest(n_estimators=5, random_state=0).fit(FEATURES), "predict"),
    "k-means": lambda: _answered(KMeans(3, n_init=1, random_state=0).fit(FEATURES), "predict"),
    "forest-of-values": lambda: _answered(
        RandomForestRegressor(5, random_state=0).fit(FEATURES, FEATURES[:, 0] * 100), "predict"
    ),
    "ridge": lambda: _answered(Ridge().fit(FEATURES, FEATURES[:, 0]), "predict"),
    "scaler": lambda: _answered(StandardScaler().fit(FEATURES), "transform"),
    # skops does not know the optimizer that it has been trained with.
    "network": lambda: _with_trust(_classifier(MLPClassifier((8,), max_iter=1000, random_state=0))),
    "extra-trees": lambda: _classifier(ExtraTreesClassifier(5, max_depth=4, random_state=0)),
    "pickled-tree": _pickled,
    "xgboost-classifier": lambda: _xgboost("classifier", "json"),
    "xgboost-regressor": lambda: _xgboost("regressor", "ubj"),
    "xgboost-in-pipeline": _boosted_pipeline,
    "xgboost-ranker": _ranker,
    "words-and-missing-values": _words_and_missing_values,
    "array-of-texts": _array_of_texts,
    "lightgbm-classifier": lambda: _lightgbm("classifier", WITH_NAN),
    "lightgbm-regressor": lambda: _lightgbm("regressor", WITH_NAN),
    "lightgbm-categories": lambda: _lightgbm("regressor", CATEGORIES, categorical_feature=[0]),
    "lightgbm-zip-map": _zip_mapped_boosting,
    "torch-perceptron": lambda: _torch("perceptron"),
    "torch-convolution": lambda: _torch("convolution"),
    "torch-memory": lambda: _torch("memory"),
    "torch-encoder": lambda: _torch("encoder"),
    "torch-two-inputs": lambda: _torch("two-inputs"),
    "torch-half": lambda: _torch("half", tolerance=5e-3),
    "torch-fixed-batch": lambda: _torch("fixed-batch"),
    "torch-no-rows": lambda: _torch("no-rows", options={"notes": GraphNotes(has_row_axis=False)}),
    "torch-external": lambda: _torch("external"),
}


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A file that cannot be served, and the sentence that says why."""

    file: str
    write: Callable[[Path], object]
    sentence: str


def _cut(path: Path) -> None:
    path.write_bytes((TORCH / "perceptron.onnx").read_bytes()[:300])


def _without_weights(path: Path) -> None:
    path.write_bytes((TORCH / "external.onnx").read_bytes())


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"")


# Five of them.
BROKEN: Mapping[str, Broken] = {
    "half-a-file": Broken(file="model.onnx", write=_cut, sentence="is no ONNX model"),
    "no-weights": Broken(file="model.onnx", write=_without_weights, sentence=r"cannot read .*external\.onnx\.data"),
    "unfitted": Broken(
        file="model.skops", write=lambda path: skops.dump(LogisticRegression(), path), sentence="has not been fitted"
    ),
    "not-xgboost": Broken(
        file="model.json", write=lambda path: path.write_text("{}"), sentence="is no model of XGBoost"
    ),
    "pickle": Broken(file="model.pt", write=_archive, sentence="is a pickle, which runs whatever"),
}

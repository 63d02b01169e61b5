"""Estimators of scikit-learn, and of libraries that have their shape: predicting, and as ONNX."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from inferlane.errors import ConfigurationError
from models.adding.boosted_files import INPUT, converted_boosting, without_names
from models.adding.check_rows import read_columns
from models.adding.converter_repairs import allow_no_zip_map, name_inputs, put_rows_first, whole_numbers
from models.adding.fitted_models import LibraryModel

# Pinned, so that a newer exporter writes files that the onnxruntime of an older worker still loads.
_OPSET = {"": 21, "ai.onnx.ml": 3}
_SEEN_TEXTS = 1_000
# Words of two characters or more, as scikit-learn's own pattern has them.
_WORDS = r"[\pL\pN_][\pL\pN_]+"


class Estimator(LibraryModel):
    """A scikit-learn estimator or pipeline, or one of another library that has its shape."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.name = type(model).__name__
        self._home = type(model).__module__.partition(".")[0]
        homes = {type(part).__module__.partition(".")[0] for part in _parts(model)}
        module = self._home if self._home in {"xgboost", "lightgbm"} else "sklearn"
        title = {"sklearn": "scikit-learn", "xgboost": "XGBoost", "lightgbm": "LightGBM"}[module]
        self.library = f"{title} {importlib.import_module(module).__version__}"
        self.takes_nan = self._home in {"xgboost", "lightgbm"}
        self._boosters = homes & {"xgboost", "lightgbm"}
        classes = getattr(model, "classes_", ())
        # Of several labels it is a list of arrays.
        self._has_labels = isinstance(classes, list)
        self.classes = () if self._has_labels else tuple(map(str, np.ravel(classes)))
        self._columns = _named_columns(model)
        self._by_place = () if self._columns else _columns_by_place(model)

    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        """Return the estimator as an ONNX graph; `rows` is a file whose columns have the types of its inputs."""
        if self._home == "xgboost":
            return converted_boosting("convert_xgboost", without_names(self._model), self._model.n_features_in_)
        if self._home == "lightgbm":
            return converted_boosting("convert_lightgbm", self._model, self._model.n_features_in_, zipmap=False)
        from skl2onnx import to_onnx  # noqa: PLC0415 - an extra

        self._register_boosters()
        is_classifier = hasattr(self._model, "predict_proba") or hasattr(self._model, "decision_function")
        options = {"zipmap": False} if is_classifier and hasattr(self._model, "classes_") else None
        types = self._initial_types(rows)
        for part in _parts(self._model):
            if hasattr(part, "flatten_transform"):
                # Of `transform` alone, which is not served; the converter knows no other value.
                part.flatten_transform = False

        allow_no_zip_map()
        with whole_numbers():
            model: onnx.ModelProto = to_onnx(
                self._model,
                initial_types=types,
                options=({id(self._model): options} if options else {}) | self._text_options(),
                target_opset=_OPSET,
            )
        name_inputs(model, [name for name, _ in types])
        if self._has_labels:
            put_rows_first(model)
        return model

    def _text_options(self) -> dict[int, dict[str, str]]:
        """Lower case by the rules of a locale that is there in every image, and words of all alphabets.

        The exporter's own locale often is not there, and its own words are of ASCII alone.
        """
        vectorizers = (part for part in _parts(self._model) if hasattr(part, "vocabulary_"))
        return {
            id(part): {"locale": "C.UTF-8"} | ({"tokenexp": _WORDS} if _has_default_words(part) else {})
            for part in vectorizers
        }

    def _initial_types(self, rows: Path | None) -> list[tuple[str, Any]]:
        from skl2onnx.common.data_types import (  # noqa: PLC0415 - an extra
            FloatTensorType,
            Int64TensorType,
            StringTensorType,
        )

        tensors = {"T": StringTensorType, "i": Int64TensorType, "f": FloatTensorType}
        if not self._columns:
            features = getattr(self._model, "n_features_in_", None)
            if features is None and self.texts:
                return [(INPUT, StringTensorType([None, 1]))]
            if features is None:
                raise ConfigurationError(
                    f"the {self.name} has not been fitted, or no converter knows how it reads its rows: it has no "
                    "n_features_in_"
                )
            kinds = {column.kind for column in self._by_place} or {"f"}
            if len(kinds) > 1:
                raise ConfigurationError(
                    f"the {self.name} was fitted on columns of text and of numbers without names. Fit it on a "
                    "DataFrame, and name the columns in its ColumnTransformer"
                )
            return [(INPUT, tensors[kinds.pop()]([None, int(features)]))]
        kinds_of = {name: column.kind for name, column in self._columns.items()}
        if rows is not None and rows.suffix != ".npz":
            kinds_of |= {name: "T" for name, column in read_columns(rows).items() if column.dtype.kind in "OUS"}
        return [(name, tensors[kinds_of[name]]([None, 1])) for name in self._columns]

    @property
    def texts(self) -> Mapping[str, list[str]]:
        """As the base class says."""
        if self._columns:
            return {name: list(seen.texts) for name, seen in self._columns.items() if seen.texts}
        if self._by_place:
            return {INPUT: [text for column in self._by_place for text in column.texts]}
        for part in _parts(self._model):
            words = getattr(part, "vocabulary_", None)
            if words and not hasattr(self._model, "n_features_in_"):
                return {INPUT: list(map(str, words))[:_SEEN_TEXTS]}
        return {}

    def _register_boosters(self) -> None:
        """Have skl2onnx know the models of XGBoost and LightGBM that are a step of a pipeline."""
        if not self._boosters:
            return
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm  # noqa: PLC0415
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost  # noqa: PLC0415
        from skl2onnx import update_registered_converter  # noqa: PLC0415
        from skl2onnx.common.shape_calculator import (  # noqa: PLC0415
            calculate_linear_classifier_output_shapes,
            calculate_linear_regressor_output_shapes,
        )

        for home, prefix, converter in (("xgboost", "XGB", convert_xgboost), ("lightgbm", "LGBM", convert_lightgbm)):
            if home in self._boosters:
                module = importlib.import_module(home)
                for kind, shapes in (
                    ("Classifier", calculate_linear_classifier_output_shapes),
                    ("Regressor", calculate_linear_regressor_output_shapes),
                ):
                    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
                    update_registered_converter(
                        getattr(module, f"{prefix}{kind}"),
                        f"{prefix}{kind}",
                        shapes,
                        converter,
                        options=options if kind == "Classifier" else None,
                    )

    def predictions(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return what scikit-learn predicts for these columns, the output that says the most first."""
        rows = self._frame(inputs) if self._columns else next(iter(inputs.values()))
        if not self._columns and rows.dtype.kind == "T":
            rows = rows.astype(object) if self._by_place else rows.astype(object).ravel()
        found = []
        for way in ("predict_proba", "decision_function", "transform", "predict"):
            try:
                values = _called(getattr(self._model, way), rows)
            except (AttributeError, NotImplementedError):
                continue
            # Of a classifier of several labels the scores are an array for each, with a column for each of its classes.
            if not isinstance(values, list) or len({np.shape(part) for part in values}) == 1:
                found.append(
                    np.stack(values, axis=1)
                    if isinstance(values, list)
                    else np.asarray(values.todense() if hasattr(values, "todense") else values)
                )
        return found

    def _frame(self, inputs: Mapping[str, np.ndarray]) -> Any:
        import pandas as pd  # noqa: PLC0415 - what the model was fitted with

        columns = {name: array.astype(object) if array.dtype.kind == "T" else array for name, array in inputs.items()}
        return pd.DataFrame({name: column.ravel() for name, column in columns.items()})


def _called(method: Callable[[Any], Any], rows: Any) -> Any:
    """What a method says of rows; of the same numbers in float64 where it takes them in the type of its fit alone."""
    try:
        return method(rows)
    except ValueError:
        is_table = not isinstance(rows, np.ndarray)
        names = list(rows.select_dtypes("float32").columns) if is_table else []
        if not names and (is_table or rows.dtype != np.float32):
            raise
        return method(rows.astype(dict.fromkeys(names, np.float64) if is_table else np.float64))


def _parts(model: Any) -> Iterator[Any]:
    """A model and what it is made of."""
    yield model
    for name in ("steps", "transformers_", "transformer_list", "estimators_"):
        entries = getattr(model, name, None)
        # Those of boosting are an array.
        for entry in np.ravel(entries) if isinstance(entries, np.ndarray) else entries or ():
            part = entry[1] if isinstance(entry, tuple) else entry
            if hasattr(part, "get_params"):
                yield from _parts(part)


class _Column(NamedTuple):
    """What a column held when a model was fitted: texts, whole numbers, or numbers (T, i, f)."""

    kind: str
    texts: tuple[str, ...] = ()


_NUMBERS = _Column("f")


def _named_columns(model: Any) -> dict[str, _Column]:
    """The columns that a ColumnTransformer picks by name, in the order of fitting."""
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]
    picked: dict[str, _Column] = {}
    for part in _parts(model):
        for entry in getattr(part, "transformers_", None) or ():
            columns = [entry[2]] if isinstance(entry[2], str) else list(np.ravel(np.asarray(entry[2], dtype=object)))
            if columns and all(isinstance(column, str) for column in columns) and entry[1] != "drop":
                picked |= dict(zip(columns, _columns_seen(entry[1], len(columns)), strict=True))
    return {name: picked[name] for name in names if name in picked} if picked else {}


def _columns_by_place(model: Any) -> tuple[_Column, ...]:
    """What the columns of an array held; nothing where no encoder kept it."""
    features = getattr(model, "n_features_in_", None)
    if features is None:
        return ()
    seen = [_NUMBERS] * features
    for part in _parts(model):
        for entry in getattr(part, "transformers_", None) or ():
            places = list(np.ravel(np.asarray(entry[2], dtype=object)))
            if entry[1] != "drop" and all(isinstance(place, int | np.integer) for place in places):
                for place, column in zip(places, _columns_seen(entry[1], len(places)), strict=True):
                    seen[place] = column
    if all(column.kind == "f" for column in seen):
        seen = _columns_seen(model, features)
    return () if all(column.kind == "f" for column in seen) else tuple(seen)


def _columns_seen(transformer: Any, count: int) -> list[_Column]:
    for part in _parts(transformer):
        categories = getattr(part, "categories_", None)
        if categories is not None and len(categories) == count:
            return list(map(_column_of, categories))
        if count == 1 and (words := getattr(part, "vocabulary_", None)):
            return [_Column("T", tuple(map(str, words))[:_SEEN_TEXTS])]
    return [_NUMBERS] * count


def _column_of(categories: np.ndarray) -> _Column:
    if categories.dtype.kind in "OUST":
        return _Column("T", tuple(map(str, categories))[:_SEEN_TEXTS])
    return _Column("i") if categories.dtype.kind in "iu" else _NUMBERS


def _has_default_words(vectorizer: Any) -> bool:
    """Whether it cuts a text into words as scikit-learn does by itself: two letters or digits, or more."""
    return (
        getattr(vectorizer, "analyzer", None) == "word"
        and getattr(vectorizer, "tokenizer", None) is None
        and getattr(vectorizer, "token_pattern", None) == r"(?u)\b\w\w+\b"
    )

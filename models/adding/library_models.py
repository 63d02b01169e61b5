"""Models of scikit-learn, XGBoost and LightGBM: opened, predicting, and as ONNX. Used in a child process alone."""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from inferlane.errors import ConfigurationError, clipped
from models.adding.check_rows import read_columns
from models.adding.sources import SourceKind

# Pinned, so that a newer exporter writes files that the onnxruntime of an older worker still loads.
_OPSET = {"": 21, "ai.onnx.ml": 3}
_INPUT = "input"
_SEEN_TEXTS = 1_000
# The arrays of a tree, of scikit-learn itself, and numpy's types, which every imputer holds. Wrong ones could crash the
# process, which is a child for that reason.
_KNOWN_TYPES = ("sklearn.tree._tree.Tree", "numpy.dtype")


class LibraryModel(ABC):
    """A fitted model of some library."""

    library: str
    name: str
    takes_nan = False
    # Of a classifier, in the order of its scores.
    classes: tuple[str, ...] = ()

    @property
    def texts(self) -> Mapping[str, list[str]]:
        """What its inputs of text are called, and texts that it has seen in them."""
        return {}

    @abstractmethod
    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        """The model in ONNX; `rows` is a file whose columns have the types of the model's."""

    @abstractmethod
    def predictions(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the library predicts, in all the ways it has, the most telling first."""


def open_model(path: Path, kind: SourceKind, *, trusted: bool) -> LibraryModel:
    """Open a model's file.

    Raises:
        ConfigurationError: it is none, or holds what nobody trusts.
        ModuleNotFoundError: its library is not installed.
    """
    match kind:
        case SourceKind.XGBOOST:
            return _xgboost_file(path)
        case SourceKind.LIGHTGBM:
            return _LightGbmBooster(path)
        case SourceKind.SKOPS:
            model = _skops_file(path, trusted=trusted)
        case _:
            import joblib  # noqa: PLC0415 - an extra

            # Also opens what `pickle` wrote.
            model = joblib.load(path)
    if not hasattr(model, "predict") and not hasattr(model, "transform"):
        raise ConfigurationError(f"{path} holds a {type(model).__name__}, which is no fitted model")
    return _Estimator(model)


def _skops_file(path: Path, *, trusted: bool) -> Any:
    from skops import io  # noqa: PLC0415 - an extra

    unknown = [name for name in io.get_untrusted_types(file=path) if name not in _KNOWN_TYPES]
    if unknown and not trusted:
        raise ConfigurationError(
            f"{path} holds types that skops does not know as safe: {clipped(', '.join(unknown))}. Say --trust-pickle "
            "if you know who made it"
        )
    return io.load(path, trusted=[*unknown, *_KNOWN_TYPES])


class _Estimator(LibraryModel):
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
        self.classes = tuple(map(str, np.ravel(getattr(model, "classes_", ()))))
        self._columns = _named_columns(model)

    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        if self._home == "xgboost":
            return _boosted("convert_xgboost", _plain_xgboost(self._model), self._model.n_features_in_)
        if self._home == "lightgbm":
            return _boosted("convert_lightgbm", self._model, self._model.n_features_in_, zipmap=False)
        from skl2onnx import to_onnx  # noqa: PLC0415 - an extra

        self._register_boosters()
        is_classifier = hasattr(self._model, "predict_proba") or hasattr(self._model, "decision_function")
        options = {"zipmap": False} if is_classifier and hasattr(self._model, "classes_") else None
        converted: onnx.ModelProto = to_onnx(
            self._model,
            initial_types=self._initial_types(rows),
            options=({id(self._model): options} if options else {}) | self._text_options(),
            target_opset=_OPSET,
        )
        return converted

    def _text_options(self) -> dict[int, dict[str, str]]:
        """Lower case by the rules of a locale that is there in every image; the exporter's own often is not."""
        vectorizers = (part for part in _parts(self._model) if hasattr(part, "vocabulary_"))
        return {id(part): {"locale": "C.UTF-8"} for part in vectorizers}

    def _initial_types(self, rows: Path | None) -> list[tuple[str, Any]]:
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: PLC0415 - an extra

        if not self._columns:
            features = getattr(self._model, "n_features_in_", None)
            if self.texts:
                return [(_INPUT, StringTensorType([None, 1]))]
            if features is None:
                raise ConfigurationError(f"the {self.name} has not been fitted: it does not know its n_features_in_")
            return [(_INPUT, FloatTensorType([None, int(features)]))]
        text = set(self.texts)
        if rows is not None and rows.suffix != ".npz":
            text |= {name for name, column in read_columns(rows).items() if column.dtype.kind in "OUS"}
        return [
            (name, StringTensorType([None, 1]) if name in text else FloatTensorType([None, 1]))
            for name in self._columns
        ]

    @property
    def texts(self) -> Mapping[str, list[str]]:
        """As the base class says."""
        if self._columns:
            return {name: seen for name, seen in self._columns.items() if seen}
        for part in _parts(self._model):
            words = getattr(part, "vocabulary_", None)
            if words and not hasattr(self._model, "n_features_in_"):
                return {_INPUT: list(map(str, words))[:_SEEN_TEXTS]}
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
        rows = self._frame(inputs) if self._columns else next(iter(inputs.values()))
        if not self._columns and rows.dtype.kind == "T":
            rows = rows.astype(object).ravel()
        found = []
        for way in ("predict_proba", "decision_function", "transform", "predict"):
            try:
                values = getattr(self._model, way)(rows)
            except (AttributeError, NotImplementedError):
                continue
            found.append(np.asarray(values.todense() if hasattr(values, "todense") else values))
        return found

    def _frame(self, inputs: Mapping[str, np.ndarray]) -> Any:
        import pandas as pd  # noqa: PLC0415 - what the model was fitted with

        columns = {name: array.astype(object) if array.dtype.kind == "T" else array for name, array in inputs.items()}
        return pd.DataFrame({name: column.ravel() for name, column in columns.items()})


def _parts(model: Any) -> Iterator[Any]:
    """A model and what it is made of."""
    yield model
    for name in ("steps", "transformers_", "transformer_list", "estimators_"):
        for entry in getattr(model, name, None) or ():
            part = entry[1] if isinstance(entry, tuple) else entry
            if hasattr(part, "get_params"):
                yield from _parts(part)


def _named_columns(model: Any) -> dict[str, list[str]]:
    """The columns that a ColumnTransformer picks by name, in the order of fitting, with the texts seen in each."""
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]
    picked: dict[str, list[str]] = {}
    for part in _parts(model):
        for entry in getattr(part, "transformers_", None) or ():
            columns = [entry[2]] if isinstance(entry[2], str) else list(np.ravel(np.asarray(entry[2], dtype=object)))
            if columns and all(isinstance(column, str) for column in columns) and entry[1] != "drop":
                picked |= dict(zip(columns, _texts_seen(entry[1], len(columns)), strict=True))
    return {name: picked[name] for name in names if name in picked} if picked else {}


def _texts_seen(transformer: Any, count: int) -> list[list[str]]:
    for part in _parts(transformer):
        categories = getattr(part, "categories_", None)
        if categories is not None and len(categories) == count:
            return [list(map(str, values)) if values.dtype.kind in "OUST" else [] for values in categories]
    return [[] for _ in range(count)]


def _boosted(convert: str, model: Any, features: int, **options: Any) -> onnx.ModelProto:
    import onnxmltools  # noqa: PLC0415 - an extra
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    converted: onnx.ModelProto = getattr(onnxmltools, convert)(
        model, initial_types=[(_INPUT, FloatTensorType([None, features]))], **options
    )
    return converted


def _plain_xgboost(model: Any) -> Any:
    """The converter knows features by number alone."""
    model.get_booster().feature_names = None
    return model


def _xgboost_file(path: Path) -> LibraryModel:
    import xgboost  # noqa: PLC0415 - an extra

    booster = xgboost.Booster()
    try:
        booster.load_model(path)
    except xgboost.core.XGBoostError as error:
        raise ConfigurationError(f"{path} is no model of XGBoost: {clipped(str(error))}") from error
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    kind = xgboost.XGBClassifier if objective.startswith(("binary:", "multi:")) else xgboost.XGBRegressor
    model = kind()
    model.load_model(path)
    return _Estimator(model)


class _LightGbmBooster(LibraryModel):
    """A model file of LightGBM, which has no estimator around it."""

    takes_nan = True
    name = "Booster"

    def __init__(self, path: Path) -> None:
        import lightgbm  # noqa: PLC0415 - an extra

        self.library = f"LightGBM {lightgbm.__version__}"
        if not path.read_text(errors="replace").startswith("tree\n"):
            raise ConfigurationError(f"{path} is no model of LightGBM")
        self._booster = lightgbm.Booster(model_file=path)

    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        del rows
        return _boosted("convert_lightgbm", self._booster, self._booster.num_feature(), zipmap=False)

    def predictions(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = np.asarray(self._booster.predict(next(iter(inputs.values()))))
        if values.ndim == 1:
            both = np.stack([1 - values, values], axis=1)
            return [both, values, (values > 0.5).astype(np.int64)]  # noqa: PLR2004 - where a class ends
        return [values, values.argmax(axis=1)]

"""Files of XGBoost and LightGBM, and their conversion to ONNX."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from inferlane.errors import ConfigurationError, clipped
from models.adding.fitted_models import LibraryModel

INPUT = "input"
"""What the single input of a model of numbers is called."""


def converted_boosting(convert: str, model: Any, features: int, **options: Any) -> onnx.ModelProto:
    """Convert a fitted booster with `convert`, a function of onnxmltools; inputs are `(rows, features) float32`."""
    import onnxmltools  # noqa: PLC0415 - an extra
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    converted: onnx.ModelProto = getattr(onnxmltools, convert)(
        model, initial_types=[(INPUT, FloatTensorType([None, features]))], **options
    )
    return converted


def without_names(model: Any) -> Any:
    """The converter knows features by number alone."""
    model.get_booster().feature_names = None
    return model


def xgboost_model(path: Path) -> Any:
    """Return the model of a file of XGBoost, as its estimator.

    Raises:
        ConfigurationError: it is none, or of a kind that the converter does not know.
    """
    import xgboost  # noqa: PLC0415 - an extra

    booster = xgboost.Booster()
    try:
        booster.load_model(path)
    except xgboost.core.XGBoostError as error:
        raise ConfigurationError(f"{path} is no model of XGBoost: {clipped(str(error))}") from error
    learner = json.loads(booster.save_config())["learner"]
    kind, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
    if kind == "gbtree" and _has_dropout(booster):
        kind = "dart"
    if kind != "gbtree":
        raise ConfigurationError(
            f"{path} is a model of XGBoost with the booster {kind!r}, which its converter to ONNX does not know. Train "
            "it with booster='gbtree' and without dropout"
        )
    if objective == "multi:softmax":
        # The same trees; the converter knows their scores by this name alone.
        booster.set_param({"objective": "multi:softprob"})
    made = xgboost.XGBClassifier if objective.startswith(("binary:", "multi:")) else xgboost.XGBRegressor
    model = made()
    # An estimator takes no file of another kind of estimator, such as a ranker; its trees are those of a regressor.
    booster.set_attr(scikit_learn=None)
    model.load_model(booster.save_raw("ubj"))
    return model


def _has_dropout(booster: Any) -> bool:
    """Return whether trees have weights of their own, which the converter leaves out.

    XGBoost before 3.4 calls such a booster `dart`, later ones `gbtree`.
    """
    if b"weight_drop" not in bytes(booster.save_raw("ubj")):
        return False
    trees = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"].get("model", {})
    return any(weight != 1 for weight in trees.get("weight_drop", ()))


class LightGbmBooster(LibraryModel):
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
        """Return the booster as an ONNX graph; `rows` is not needed, because a booster knows its features."""
        del rows
        return converted_boosting("convert_lightgbm", self._booster, self._booster.num_feature(), zipmap=False)

    def predictions(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return what LightGBM predicts for `(rows, features)`: scores by class, and class indices."""
        values = np.asarray(self._booster.predict(next(iter(inputs.values()))))
        if values.ndim == 1:
            both = np.stack([1 - values, values], axis=1)
            return [both, values, (values > 0.5).astype(np.int64)]  # noqa: PLR2004 - where a class ends
        return [values, values.argmax(axis=1)]

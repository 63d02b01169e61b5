"""Files of scikit-learn, XGBoost and LightGBM, opened. Used in a child process alone."""

from pathlib import Path
from typing import Any

from inferlane.errors import ConfigurationError, clipped
from models.adding.boosted_files import LightGbmBooster, xgboost_model
from models.adding.estimators import Estimator
from models.adding.fitted_models import LibraryModel
from models.adding.sources import SourceKind

# The arrays of a tree, of scikit-learn itself, and numpy's types, which every imputer holds. Wrong ones could crash the
# process, which is a child for that reason.
_KNOWN_TYPES = ("sklearn.tree._tree.Tree", "numpy.dtype")


def open_model(path: Path, kind: SourceKind, *, trusted: bool) -> LibraryModel:
    """Open a model's file.

    Raises:
        ConfigurationError: it is none, or holds what nobody trusts.
        ModuleNotFoundError: its library is not installed.
    """
    match kind:
        case SourceKind.XGBOOST:
            return Estimator(xgboost_model(path))
        case SourceKind.LIGHTGBM:
            return LightGbmBooster(path)
        case SourceKind.SKOPS:
            model = _skops_file(path, trusted=trusted)
        case _:
            import joblib  # noqa: PLC0415 - an extra

            # Also opens what `pickle` wrote.
            model = joblib.load(path)
    if not hasattr(model, "predict") and not hasattr(model, "transform"):
        raise ConfigurationError(f"{path} holds a {type(model).__name__}, which is no fitted model")
    return Estimator(model)


def _skops_file(path: Path, *, trusted: bool) -> Any:
    from skops import io  # noqa: PLC0415 - an extra

    unknown = [name for name in io.get_untrusted_types(file=path) if name not in _KNOWN_TYPES]
    if unknown and not trusted:
        raise ConfigurationError(
            f"{path} holds types that skops does not know as safe: {clipped(', '.join(unknown))}. Say --trust-pickle "
            "if you know who made it"
        )
    return io.load(path, trusted=[*unknown, *_KNOWN_TYPES])

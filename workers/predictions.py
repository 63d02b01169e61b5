"""What a run predicted: classes of a classifier, values of a regression."""

from typing import TYPE_CHECKING

import numpy as np

from inferlane.runtime.metrics.labels import MAX_CLASSES, class_labels
from inferlane.runtime.metrics.worker import MODEL_SIZE, PREDICTION_VALUE, PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.catalog import ModelVersion
    from workers.batching import Outcome


class Predictions:
    """Finds the predictions in the outputs of one version."""

    def __init__(self, version: "ModelVersion") -> None:
        self._class_output = _class_output(version)
        self._value_output = _value_output(version)

    def of(self, outcomes: "Sequence[Outcome]") -> tuple[np.ndarray | None, np.ndarray | None]:
        """Class indices and values, each `(rows,)`; None of what the model does not give."""
        return _gather(outcomes, self._class_output), _gather(outcomes, self._value_output)


class PredictionCounts:
    """Counts predictions for Prometheus, once a batch."""

    def __init__(self, version: "ModelVersion") -> None:
        names = (version.model, version.version)
        self._values = PREDICTION_VALUE.labels(*names) if _value_output(version) else None
        labels = class_labels(version.classes) if _class_output(version) else ()
        self._classes = [PREDICTIONS.labels(*names, label) for label in labels]
        self._named = min(len(version.classes), MAX_CLASSES)
        MODEL_SIZE.labels(*names).set(version.size_bytes)

    def add(self, classes: np.ndarray | None, values: np.ndarray | None) -> None:
        """Add the predictions of a batch; an index that names no class of its own counts as other."""
        if classes is not None and self._classes:
            found = np.where((classes >= 0) & (classes < self._named), classes, self._named)
            for index in np.flatnonzero(counts := np.bincount(found.astype(np.intp))):
                self._classes[index].inc(int(counts[index]))
        if values is not None and self._values is not None:
            self._values.observe_many(values)


def _gather(outcomes: "Sequence[Outcome]", output: str | None) -> np.ndarray | None:
    found = [outcome.outputs[output] for outcome in outcomes if output and outcome.outputs is not None]
    return np.concatenate(found).ravel() if found else None


def _class_output(version: "ModelVersion") -> str | None:
    """The output that holds class indices: one whole number a row, of a model that names its classes."""
    for spec in version.signature.outputs:
        if version.classes and not spec.row_shape and spec.datatype.startswith("INT"):
            return spec.name
    return None


def _value_output(version: "ModelVersion") -> str | None:
    """The output that holds a regression's values: one real number a row, of a model without classes."""
    for spec in version.signature.outputs:
        if not version.classes and spec.row_shape in {(), (1,)} and spec.datatype.startswith("FP"):
            return spec.name
    return None

"""Labels of a version without class names: whole numbers or text, counted by label up to a bound. No I/O."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from inferlane.contracts.outcomes import LABEL_CHARS, OTHER
from inferlane.contracts.wire.row_texts import TOKEN_COUNT
from inferlane.runtime.metrics.instruments import MAX_CLASSES

if TYPE_CHECKING:
    from inferlane.contracts.wire.tensors import TensorSpec
    from models.catalog import ModelVersion
    from workers.batching import InferredRequest


class OpenLabels:
    """Counts the labels in the outputs of one version: the first `MAX_CLASSES` that come by name, all else as `other`.

    One label costs a series in Prometheus and an entry in each window for as long as the process runs, and a model may
    answer with ever-new numbers. Rollouts do not compare these labels, because each worker may count other labels.
    """

    def __init__(self, version: "ModelVersion") -> None:
        self._output = open_label_output(version)
        self._names: dict[int | str, str] = {}

    def count(self, inferred: "Sequence[InferredRequest]") -> Mapping[str, int]:
        """Return how many rows got each label, by name; empty for a version without such labels."""
        output = self._output
        found = [one.outputs[output].ravel() for one in inferred if output and one.outputs is not None]
        if not found:
            return {}
        counts: Counter[str] = Counter()
        for label, count in zip(*map(np.ndarray.tolist, _distinct(np.concatenate(found))), strict=True):
            # Add, do not assign: two texts may be equal after they are cut.
            counts[self._name(label)] += count
        return counts

    def _name(self, label: int | str) -> str:
        name = self._names.get(label)
        if name is None:
            if len(self._names) >= MAX_CLASSES:
                return OTHER
            name = self._names[label] = str(label)[:LABEL_CHARS]
        return name


def open_label_output(version: "ModelVersion") -> str | None:
    """Return the output with the label of each row, in a version that names no classes; None if there is none.

    The first with one whole number, boolean or text a row; but not the number of tokens that a tokenizer counts.
    """
    if version.classes or version.label_output:
        return None
    counted = {TOKEN_COUNT} if version.steps is not None else set()
    return next((spec.name for spec in version.signature.outputs if _is_label(spec) and spec.name not in counted), None)


def _is_label(spec: "TensorSpec") -> bool:
    return spec.row_shape in {(), (1,)} and not spec.is_binary and spec.kind in {"INT", "BOOL", "BYTES"}


def _distinct(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if labels.dtype.kind not in "iub":
        found = Counter(map(str, labels.tolist()))
        return np.array(list(found), object), np.array(list(found.values()))
    return np.unique(labels, return_counts=True)
